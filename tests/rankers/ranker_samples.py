"""Rankers made from a name and values, for the tests of this folder."""

from xmrank.rankers import RefinementParameters, RefinementSizes, build_ranker, make_parameters


def build(name, dimensions=6, refine=None, sizes=None, **values):
    """A ranker by name; `refine` and `sizes` hold fields of RefinementParameters and RefinementSizes."""
    return build_ranker(
        make_parameters(name, **values),
        dimensions=dimensions,
        refinement=RefinementParameters(**refine) if refine else None,
        sizes=RefinementSizes(**sizes) if sizes else None,
    )
