"""The picture of one run: a trace in, one HTML file out that needs nothing else.

In: the lines of a trace (JSON, one event a line), complete or cut short. Out: a page with its own
style, script and data, which a browser opens without a network. The page shows what the trace says
and decides nothing: no rule of the cluster is known here, and what the page does not understand
(another kind of event, a line that was torn) it counts and leaves out.

`columns` turns the lines into arrays, `page` puts these and the files of `assets/` together; the
scripts there do everything else in the browser.
"""

from sim.timeline.page import assemble, asset, render, write_html

__all__ = ["assemble", "asset", "render", "write_html"]
