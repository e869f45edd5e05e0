"""The review console: pages a person reads, asks and decides on. Rendered here, with htmx and one small script on top.

Every rule of who may do what is in `moderation.review` and `moderation.people`; the pages only show what they allow.
"""
