"""Gates with settings of one's own."""

import pytest

from orchestrator.registry.gate_settings import changed_settings, choose_gates
from trainables.errors import ConfigError
from trainables.methods.gates import Gate


def test_without_settings_they_are_the_gates_on_the_shelf() -> None:
    chosen = choose_gates()
    assert [gate.name for gate in chosen] == sorted(Gate.shelf)
    assert all(changed_settings(gate) == {} for gate in chosen)


def test_settings_change_their_gate_alone() -> None:
    texts = ["few.allowed_regression=2", "few.excused_regression=8", "latency.negligible=1"]
    changed = {gate.name: changed_settings(gate) for gate in choose_gates(texts)}
    assert {name: given for name, given in changed.items() if given} == {
        "few": {"allowed_regression": 2.0, "excused_regression": 8.0},
        "latency": {"negligible": 1.0},
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fwe.allowed_regression=2", "unknown gate 'fwe'; allowed: .*; did you mean 'few'"),
        ("few=2", "is written gate.setting=value"),
        ("few.allowed=2", "few: unknown key 'allowed'; .* did you mean 'allowed_regression'"),
        ("few.allowed_regression=-1", "greater than or equal to 0.*received -1"),
        ("few.allowed_regression=.inf", "finite number"),
        ("few.allowed_regression=2026-11-30", "valid number"),
        ("provenance.oracle=1", "provenance: unknown key 'oracle'; allowed: no settings"),
        ("few", "--gate is written path=value"),
        ("few.allowed_regression=[", "--gate few.allowed_regression is not valid YAML"),
    ],
)
def test_a_setting_that_no_gate_has_is_one_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        choose_gates([text])
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("--gate")
