"""What a job would take, from the configuration and the headers alone."""
