"""The forgery lab: imitations of the four techniques, made from bona fide faces, with exact masks and facts."""
