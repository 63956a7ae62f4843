"""From a subscription to money: wallets, invoices, payments and the billing run, which use the layers below."""
