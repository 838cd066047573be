"""What the scheduler does besides: cleaning up, delivering webhooks."""
