"""The decode-attention kernel, built for real devices by triton's own compiler. Building needs no GPU; running does."""

from typing import Any

import pytest

triton: Any = pytest.importorskip("triton")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from moderation.dfa.gpt.engine.triton_decode import BLOCK, _kernel  # noqa: E402

SIGNATURE = {
    "q": "*{0}", "k": "*{0}", "v": "*{0}", "out": "*{0}", "slots": "*i64", "lengths": "*i64", "scale": "fp32",
    "s_slot": "i32", "s_head": "i32", "s_pos": "i32",
}  # fmt: skip


def built(numbers: str, *, group: int, capability: int) -> Any:
    """As triton builds it for LLaVA-1.5-7B's 128 wide heads, whose addresses and strides 16 divides."""
    constants = {"GROUP": group, "D": 128, "BLOCK": BLOCK}
    aligned = {(place,): [["tt.divisibility", 16]] for place, name in enumerate(SIGNATURE) if name != "scale"}
    source = ASTSource(
        _kernel,
        {name: kind.format(numbers) for name, kind in SIGNATURE.items()}
        | dict.fromkeys(constants, "constexpr"),
        constants,
        aligned,
    )
    options = {
        "enable_fp_fusion": True
    }  # as it is by default, of which triton 3.9 warns that it will not stay so
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


@pytest.mark.skipif(not hasattr(_kernel, "params"), reason="triton interprets: nothing is built")
@pytest.mark.parametrize("capability", [80, 89, 90, 100], ids=["A100", "L40S", "H200", "B200"])
@pytest.mark.parametrize(
    ("numbers", "group"), [("bf16", 1), ("bf16", 4), ("fp32", 1)], ids=["bfloat16", "grouped", "float32"]
)
def test_the_kernel_is_built_for_every_device_that_is_served(
    numbers: str, group: int, capability: int
) -> None:
    made = built(numbers, group=group, capability=capability)

    assert made.asm["cubin"]
    # 128 bits at a time, of keys and of values: narrower reads would not reach the bandwidth it is there for.
    assert made.asm["ptx"].count("ld.global.v4") >= 2
