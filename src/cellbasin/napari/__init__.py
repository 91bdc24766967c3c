"""Plugin of napari: what `napari.yaml` promises, each a thin layer over `Model.segment` and `cellbasin.io`.

Nothing of napari or Qt is imported before napari asks for a widget, and none of it by any other part of cellbasin.
"""
