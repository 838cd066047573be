"""Webhook endpoints, their deliveries and their secrets."""
