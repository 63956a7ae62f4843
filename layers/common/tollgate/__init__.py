"""Tollgate: usage metering, pricing, entitlements and billing recovery.

Dependencies point one way: kernel <- pricing <- catalog <- metering <- entitlements <- billing;
recovery stands on the kernel alone; api turns HTTP into calls; the functions wire them together.
"""
