"""Parts that pages for people share: the style sheet, macros of templates, and how values are written."""
