"""The enums of TensorRT's Python bindings by version, read off the real ones; test_fake_is_true compares every member and value."""

from __future__ import annotations

from enum import Enum


def _members(text: str) -> dict[str, int]:
    return {name: int(value) for name, _, value in (word.partition("=") for word in text.split())}


_SHARED = {
    "MemoryPoolType": _members(
        "WORKSPACE=0 DLA_MANAGED_SRAM=1 DLA_LOCAL_DRAM=2 DLA_GLOBAL_DRAM=3 TACTIC_DRAM=4 TACTIC_SHARED_MEMORY=5"
    ),
    "TensorIOMode": _members("NONE=0 INPUT=1 OUTPUT=2"),
    "LayerInformationFormat": _members("ONELINE=0 JSON=1"),
    "ProfilingVerbosity": _members("LAYER_NAMES_ONLY=0 NONE=1 DETAILED=2"),
    "TensorLocation": _members("DEVICE=0 HOST=1"),
    "ErrorCode": _members(
        "SUCCESS=0 INTERNAL_ERROR=1 MEM_ALLOC_FAILED=2 MODEL_DESERIALIZE_FAILED=3 INVALID_VALUE=4 "
        "INVALID_GRAPH=5 INVALID_NODE=6 UNSUPPORTED_GRAPH=7 UNSUPPORTED_NODE=8 UNSUPPORTED_NODE_ATTR=9 "
        "UNSUPPORTED_NODE_INPUT=10 UNSUPPORTED_NODE_DATATYPE=11 UNSUPPORTED_NODE_DYNAMIC=12 "
        "UNSUPPORTED_NODE_SHAPE=13 REFIT_FAILED=14"
    ),
    "Severity": _members("INTERNAL_ERROR=0 ERROR=1 WARNING=2 INFO=3 VERBOSE=4"),
}

_LAYERS_10_3 = _members(
    "CONVOLUTION=0 CAST=1 ACTIVATION=2 POOLING=3 LRN=4 SCALE=5 SOFTMAX=6 DECONVOLUTION=7 CONCATENATION=8 ELEMENTWISE=9 "
    "PLUGIN=10 UNARY=11 PADDING=12 SHUFFLE=13 REDUCE=14 TOPK=15 GATHER=16 MATRIX_MULTIPLY=17 RAGGED_SOFTMAX=18 "
    "CONSTANT=19 IDENTITY=20 PLUGIN_V2=21 SLICE=22 SHAPE=23 PARAMETRIC_RELU=24 RESIZE=25 TRIP_LIMIT=26 RECURRENCE=27 "
    "ITERATOR=28 LOOP_OUTPUT=29 SELECT=30 FILL=31 QUANTIZE=32 DEQUANTIZE=33 CONDITION=34 CONDITIONAL_INPUT=35 "
    "CONDITIONAL_OUTPUT=36 SCATTER=37 EINSUM=38 ASSERTION=39 ONE_HOT=40 NON_ZERO=41 GRID_SAMPLE=42 NMS=43 "
    "REVERSE_SEQUENCE=44 NORMALIZATION=45 PLUGIN_V3=46"
)
_LAYERS = {
    **_LAYERS_10_3,
    **_members(
        "SQUEEZE=47 UNSQUEEZE=48 CUMULATIVE=49 DYNAMIC_QUANTIZE=50 ATTENTION_INPUT=51 ATTENTION_OUTPUT=52 "
        "ROTARY_EMBEDDING=53 KV_CACHE_UPDATE=54 MOE=55 DIST_COLLECTIVE=56"
    ),
}

_TYPES_10_3 = _members("FLOAT=0 HALF=1 INT8=2 INT32=3 BOOL=4 UINT8=5 FP8=6 BF16=7 INT64=8 INT4=9")
_TYPES = {**_TYPES_10_3, **_members("FP4=10 E8M0=11")}

_FLAGS_10_3 = _members(
    "FP16=0 INT8=1 DEBUG=2 GPU_FALLBACK=3 REFIT=4 DISABLE_TIMING_CACHE=5 TF32=6 SPARSE_WEIGHTS=7 "
    "SAFETY_SCOPE=8 OBEY_PRECISION_CONSTRAINTS=9 PREFER_PRECISION_CONSTRAINTS=10 DIRECT_IO=11 "
    "REJECT_EMPTY_ALGORITHMS=12 VERSION_COMPATIBLE=13 EXCLUDE_LEAN_RUNTIME=14 FP8=15 "
    "ERROR_ON_TIMING_CACHE_MISS=16 BF16=17 DISABLE_COMPILATION_CACHE=18 WEIGHTLESS=19 STRIP_PLAN=19 "
    "REFIT_IDENTICAL=20 WEIGHT_STREAMING=21 INT4=22 REFIT_INDIVIDUAL=23"
)
_FLAGS_10_16 = {
    **_FLAGS_10_3,
    **_members("STRICT_NANS=24 MONITOR_MEMORY=25 FP4=26 EDITABLE_TIMING_CACHE=27 DISTRIBUTIVE_INDEPENDENCE=28"),
}
_FLAGS_11_4 = _members(
    "DEBUG=2 GPU_FALLBACK=3 REFIT=4 DISABLE_TIMING_CACHE=5 TF32=6 SPARSE_WEIGHTS=7 SAFETY_SCOPE=8 "
    "DIRECT_IO=11 VERSION_COMPATIBLE=12 EXCLUDE_LEAN_RUNTIME=13 ERROR_ON_TIMING_CACHE_MISS=15 "
    "DISABLE_COMPILATION_CACHE=17 STRIP_PLAN=18 REFIT_IDENTICAL=19 WEIGHT_STREAMING=20 "
    "REFIT_INDIVIDUAL=22 STRICT_NANS=23 MONITOR_MEMORY=24 EDITABLE_TIMING_CACHE=26 "
    "DISTRIBUTIVE_INDEPENDENCE=27"
)

# Full version: enum: member: value.
VERSIONS: dict[str, dict[str, dict[str, int]]] = {
    "10.3.0": {
        **_SHARED,
        "DataType": _TYPES_10_3,
        "LayerType": _LAYERS_10_3,
        "BuilderFlag": _FLAGS_10_3,
        "NetworkDefinitionCreationFlag": _members("EXPLICIT_BATCH=0 STRONGLY_TYPED=1"),
    },
    "10.16.1.11": {
        **_SHARED,
        "DataType": _TYPES,
        "LayerType": _LAYERS,
        "BuilderFlag": _FLAGS_10_16,
        "NetworkDefinitionCreationFlag": _members(
            "EXPLICIT_BATCH=0 STRONGLY_TYPED=1 PREFER_JIT_PYTHON_PLUGINS=2 PREFER_AOT_PYTHON_PLUGINS=3"
        ),
    },
    "11.4.0.106": {
        **_SHARED,
        "DataType": _TYPES,
        "LayerType": _LAYERS,
        "BuilderFlag": _FLAGS_11_4,
        "NetworkDefinitionCreationFlag": _members(
            "STRONGLY_TYPED=0 PREFER_JIT_PYTHON_PLUGINS=1 PREFER_AOT_PYTHON_PLUGINS=2"
        ),
    },
}

_ITEM_BYTES = _members("FLOAT=4 HALF=2 BF16=2 INT32=4 INT64=8")


class BoundEnum(Enum):
    """Like pybind11's: `int(member)` works, `1 << member` does not."""

    def __int__(self) -> int:
        return int(self.value)


class BoundDataType(BoundEnum):
    @property
    def itemsize(self) -> float:
        return {"INT4": 0.5, "FP4": 0.5}.get(self.name) or _ITEM_BYTES.get(self.name, 1)


def make_enums(version: str) -> dict[str, type[BoundEnum]]:
    """New enum classes for one version; members of two versions are never equal."""
    found: dict[str, type[BoundEnum]] = {}
    for name, members in VERSIONS[version].items():
        base = BoundDataType if name == "DataType" else BoundEnum
        found[name] = base(name, members, module="tensorrt")  # type: ignore[call-overload]
    return found
