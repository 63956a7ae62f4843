"""May this customer do this now?"""
