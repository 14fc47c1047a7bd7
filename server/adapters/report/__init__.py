"""An adapter's report as a page that people read: where it comes from, what was checked, who decided what and why.

svg       three small plots (pure; no script, no outside resource)
content   Page: what the page says, from the stored rows (pure)
of_round  the same of a training round, which may have no adapter
markdown  the page as Markdown, its plots as data: images
html      the page as one self-contained HTML file
"""
