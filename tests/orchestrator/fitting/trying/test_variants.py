"""The variants of a fit: all are settings that exist, each once, the base first."""

from orchestrator.fitting.trying.variants import in_words, is_base, list_variants
from trainables.settings import canonical_json


def test_each_variant_is_there_once_and_the_base_is_the_first() -> None:
    variants = list_variants()
    assert len({canonical_json(method.dump()) for method in variants}) == len(variants)
    assert [n for n, method in enumerate(variants) if is_base(method)] == [0]
    assert len({in_words(method) for method in variants}) == len(variants)
    assert all(method.from_features for method in variants)


def test_few_variants_are_the_first_of_many() -> None:
    few = list_variants(9)
    assert few == list_variants()[:9]
    assert {method.name for method in few} == {"ridge", "lda", "ncm", "fecam"}
