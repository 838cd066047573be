"""HTTP itself: problems, conditional requests, negotiation, strict JSON."""
