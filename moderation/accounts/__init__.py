"""Who may sign in or call the API: accounts of people, their sessions, keys of platforms."""
