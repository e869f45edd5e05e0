"""The forgery lab: stand-ins for the four techniques, made from bona fide faces with exact masks and facts."""
