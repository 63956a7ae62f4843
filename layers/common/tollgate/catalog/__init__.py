"""What is sold to whom: features, plans, customers, subscriptions, their periods, and API keys."""
