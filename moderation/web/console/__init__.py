"""The review console: pages on which people read, ask and decide. Rendered on the server, with htmx and a small script.

`moderation.review` and `moderation.people` hold all rules about who may do what. The pages only show what they allow.
"""
