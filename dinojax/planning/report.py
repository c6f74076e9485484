"""A plan: everything `python -m dinojax.plan` knows, as an object, as text and as JSON."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from dinojax.planning.memory import Memory
from dinojax.planning.rates import DECODED_PER_CORE, MFU, Rates
from dinojax.planning.topologies import GIB, JAX_SHARE, Topology
from dinojax.ssl.flops import ImageFlops


@dataclass(frozen=True)
class Plan:
    """Of a recipe on a topology; bytes are per device.

    Attributes:
        parameters: of the student, by part.
        mesh: devices per axis.
        mesh_reason: why this mesh.
        flops: model FLOPs per image, on average over the resolutions of a run.
        stages: predicted memory at the high points of the step, by category.
        hbm_bytes_compiled: what the TPU compiler allocates; None without ``--compile``.
        compiled_fits: whether the compiler placed the program.
        compile_seconds: the compile took.
        collectives: kind, dtype, place, count and bytes per step.
        checkpoint_bytes: of one checkpoint, in all.
        images: of the whole recipe.
    """

    config: str
    topology: Topology
    parameters: dict[str, int]
    mesh: dict[str, int]
    mesh_reason: str
    flops: ImageFlops
    stages: dict[str, Memory]
    collectives: list[dict[str, str | int | bool]]
    rates: Rates
    checkpoint_bytes: int
    images: int
    hbm_bytes_compiled: int | None = None
    compiled_fits: bool | None = None
    compile_seconds: float | None = None

    @property
    def memory(self) -> Memory:
        """Of the highest point."""
        return max(self.stages.values(), key=lambda memory: memory.total)

    @property
    def hbm_bytes(self) -> int:
        """The compiler's number where there is one."""
        return self.memory.total if self.hbm_bytes_compiled is None else self.hbm_bytes_compiled

    @property
    def fits(self) -> bool:
        within = self.hbm_bytes <= self.topology.chip.hbm_bytes
        return within and self.compiled_fits is not False

    @property
    def warnings(self) -> list[str]:
        found = []
        topology, share = self.topology, self.hbm_bytes / self.topology.chip.hbm_bytes
        if 0.9 < share <= 1:
            found.append(f"{share:.0%} of HBM: evaluation and fragmentation may not find room")
        cores = topology.hosts * topology.chip.host_cores
        if self.rates.decode_cores[1] > cores:
            found.append(
                f"decoding needs {self.rates.decode_cores[1]} cores, the hosts have {cores}: "
                "devices would wait for data"
            )
        if not topology.is_tpu:
            found.append(
                f"of a GPU's memory JAX takes {JAX_SHARE:.0%}, which is what counts here, unless "
                "XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise"
            )
        if self.hbm_bytes_compiled is None:
            found.append("memory and collectives are predictions; --compile asks the TPU compiler")
        return found

    def to_json(self) -> dict[str, Any]:
        """One object; names of `docs/plan.md`."""
        return {
            "config": self.config,
            "topology": self.topology.name,
            "devices": self.topology.devices,
            "mesh": self.mesh,
            "mesh_reason": self.mesh_reason,
            "parameters": self.parameters,
            "flops_per_image": self.flops.total,
            "flops_per_image_by_part": self.flops._asdict(),
            "hbm_bytes_per_device": self.topology.chip.hbm_bytes,
            "hbm_bytes_predicted": self.memory.total,
            "hbm_bytes_by_category": self.memory._asdict(),
            "hbm_bytes_by_stage": {name: one._asdict() for name, one in self.stages.items()},
            "hbm_bytes_compiled": self.hbm_bytes_compiled,
            "fits": self.fits,
            "compile_seconds": self.compile_seconds,
            "collectives": self.collectives,
            "mfu_assumed": MFU,
            "images_per_second": self.rates.images_per_second,
            "device_hours": self.rates.device_hours,
            "decode_cores": self.rates.decode_cores,
            "checkpoint_bytes": self.checkpoint_bytes,
            "images": self.images,
            "warnings": self.warnings,
        }

    def to_text(self) -> str:
        """For people."""
        topology, hbm = self.topology, self.topology.chip.hbm_bytes
        mesh = " x ".join(f"{name}={size}" for name, size in self.mesh.items())
        lines = [
            f"{self.config} on {topology.name}: {topology.devices} devices, {topology.hosts} hosts",
            f"mesh {mesh}: {self.mesh_reason}",
            "",
            "Student parameters, millions",
            *_table((name, f"{count / 1e6:,.1f}") for name, count in self.parameters.items()),
            "",
            "Model FLOPs per image, G",
            *_table((name, f"{part / 1e9:,.1f}") for name, part in self.flops._asdict().items()),
            *_table([("total", f"{self.flops.total / 1e9:,.1f}")]),
            "",
            "GiB per device at the high points of the step (predicted)",
            *_table([("", *self.stages)]),
            *_table(
                (name, *(f"{one[i] / GIB:,.2f}" for one in self.stages.values()))
                for i, name in enumerate(Memory._fields)
            ),
            *_table([("total", *(f"{one.total / GIB:,.2f}" for one in self.stages.values()))]),
        ]
        if self.hbm_bytes_compiled is not None:
            compiled = f"{self.hbm_bytes_compiled / GIB:,.2f} in {self.compile_seconds:.0f} s"
            lines += _table([("compiled", compiled)])
        share = self.hbm_bytes / hbm
        verdict = "fits" if self.fits else f"too large by {(self.hbm_bytes - hbm) / GIB:.2f} GiB"
        low, high = self.rates.images_per_second
        hours, cores = self.rates.device_hours, self.rates.decode_cores
        lines += [
            *_table([("HBM", f"{hbm / GIB:,.2f}")]),
            f"  {share:.0%} of HBM: {verdict}",
            "",
            "Collectives per step and device",
            *(
                f"  {row['kind']:<18} {row['dtype']:<5} "
                f"{'inside' if row['in_layer_loop'] else 'outside'} the layer loop  "
                f"{row['count']:>6} arrays  {int(row['bytes']) / GIB:>8.3f} GiB"
                for row in self.collectives
            ),
            "",
            f"At {MFU[0]:.0%} to {MFU[1]:.0%} of {topology.chip.peak_flops / 1e12:.0f} TFLOP/s "
            "per device (assumed)",
            *_table(
                [
                    ("images/s", f"{low:,.0f} to {high:,.0f}"),
                    ("device-hours", f"{hours[1]:,.0f} to {hours[0]:,.0f}"),
                    ("decode cores", f"{cores[0]:,} to {cores[1]:,}"),
                ]
            ),
            f"  ({self.images:,} images; {DECODED_PER_CORE} images/s per core, docs/benchmarks.md)",
            "",
            f"Checkpoint: {self.checkpoint_bytes / GIB:,.2f} GiB",
            *(f"warning: {warning}" for warning in self.warnings),
        ]
        return "\n".join(lines)


def _table(rows: Iterable[tuple[str, ...]]) -> list[str]:
    return [
        f"  {name.replace('_', ' '):<18}" + "".join(f" {value:>12}" for value in values)
        for name, *values in rows
    ]
