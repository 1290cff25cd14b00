"""Records of finished artifacts -> tables, figures, pages: the last stage of the flow.

``writing`` makes the files of a report, ``pictures`` the small figures of the UI and the command line, ``figures`` and
its siblings draw. Nothing is imported here: a table should not cost the import of matplotlib.
"""
