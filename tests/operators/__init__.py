"""What an operator meets: databases that are not ready, addresses, logs, stores, and receivers that are silent."""
