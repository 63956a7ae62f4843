"""The error ledger: every failed operation is written down, retried, and ends resolved or with a person."""
