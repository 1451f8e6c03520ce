"""`make figures`: all that is generated in docs/ and README.md, drawn anew from the last results.

__main__      the table of figures: who draws what, and what measures it anew
page          tables and blocks of a Markdown page, and the rule that none loses rows
bench         figures of `make bench` as Markdown: README.md, docs/performance.md, docs/comparison.md
draw          one function a figure

Nothing is measured here but what takes seconds. What takes longer is drawn from what was measured last: from build/, where
a whole run left it there, or from what docs/ holds already.
"""
