"""How a study grows: with simulated trials, simulated lanes, real nodes on one machine, and examples.

python benchmarks/speed/scale.py trials [5000]    sampler, record and front on their own: seconds a trial, by hundreds
python benchmarks/speed/scale.py lanes [200]      one broker, this many simulated lanes that report every second
python benchmarks/speed/scale.py nodes [3]        Ray nodes on this machine: what each is sent of the transfer set
python benchmarks/speed/scale.py hosts [3]        the same with a network, an address and shared memory of its own for each (root)
python benchmarks/speed/scale.py examples [5e6]   a transfer set of this many rows: memory of making, sharing, reading it
python benchmarks/speed/scale.py data [5e6]       a whole study of a tiny teacher on a file of this many rows: who holds what
"""

from __future__ import annotations

import asyncio
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from search.lanes.quiet import quieten, start_ray
from search.record.record import Record, open_storage
from search.results.front import Reference
from search.study.budget import Budget
from search.study.sampling import Sampling
from search.study.searcher import StudySearcher
from search.trial.data import Tokens, num_batches, padded, training_rows
from spaces.student import TeacherShape
from spaces.trial import Measurement, WorkItem, WorkKind, WorkResult
from spaces.yaml_io import parse_study

TEACHER = TeacherShape(
    model_type="bert", depth=12, hidden_size=768, num_heads=12, intermediate_size=3072, vocabulary_size=30522,
    max_positions=512, type_vocabulary_size=2, num_labels=2, num_parameters=109_483_778,
)  # fmt: skip
REFERENCES = [
    Reference(name="teacher", label="teacher", num_parameters=109_483_778, metrics={"validation/accuracy": 0.93})
]


def trials(count: int) -> None:
    """A study of the default space whose trials take no time: what is left is ours."""
    with tempfile.TemporaryDirectory() as folder:
        spec = parse_study(
            {
                "name": "many",
                "data": {"builtin": "docstrings"},
                "teacher": "x/y",
                "output": folder,
                "budget": {"trials": count},
            },
            "the benchmark",
            Path(folder),
        )
        record = Record(open_storage("sqlite", Path(folder)), spec.name, spec.objectives)
        sampling = Sampling(spec, TEACHER, {"full": 30522, "used": 12000}, {})
        budget = Budget(
            spec, num_lanes=8, tokens_per_text=12, deadline=time.monotonic() + 1e6,
            front_size=lambda: len(searcher.front.points),
        )  # fmt: skip
        searcher = StudySearcher(
            spec,
            record,
            sampling,
            budget,
            references=REFERENCES,
            teacher_depth=12,
            payload={},
            told=lambda outcome: None,
        )
        asking: list[float] = []
        telling: list[float] = []
        for number in range(count):
            begun = time.perf_counter()
            item = searcher.next_item("any")
            assert isinstance(item, WorkItem)
            asked = time.perf_counter()
            searcher.finished(item.key, simulated(item))
            asking.append(asked - begun)
            telling.append(time.perf_counter() - asked)
            if (number + 1) % 250 == 0:
                last = slice(-250, None)
                print(
                    f"trials {number - 248} to {number + 1}: ask {statistics.median(asking[last]) * 1e3:.0f} ms, "
                    f"tell {statistics.median(telling[last]) * 1e3:.0f} ms (medians), memory {megabytes():.0f} MB",
                    flush=True,
                )
        print(f"{count} trials: {sum(asking) + sum(telling):.0f} s in all, front of {len(searcher.front.points)}")


def simulated(item: WorkItem) -> WorkResult:
    """Better when larger, and with noise: a front of some tens of points."""
    assert item.config is not None
    assert item.trial is not None
    noise = np.random.default_rng(item.trial).normal(0, 0.01)
    accuracy = min(0.99, 0.5 + 0.05 * math.log10(item.config.shape.num_parameters / 1e4) + noise)
    measurement = Measurement(
        trial=item.trial,
        attempt=1,
        step=100,
        share=1.0,
        metrics={"validation/accuracy": accuracy},
        cost={"train_seconds": 9.0},
    )
    return WorkResult(
        key=item.key,
        kind=item.kind,
        trial=item.trial,
        attempt=1,
        lane=0,
        measurement=measurement,
        timing={"finished_at": time.time()},
    )


def lanes(count: int, seconds: int = 60) -> None:
    """Lanes that speak to a real broker as workers do, in this process: a heartbeat a second, an item of two to four."""
    import ray

    from search.lanes.broker import start_broker

    start_ray(num_cpus=2)
    broker = start_broker("scale", recycle_after=10**9)
    until = time.monotonic() + seconds
    waits: list[float] = []
    beats: list[float] = []
    done = 0

    @ray.remote(num_cpus=0)
    class Stand:
        """In the place of a worker, for the broker's watch."""

    async def lane(number: int, stand: Any) -> None:
        nonlocal done
        incarnation = await broker.lane_started.remote(number, 0, "node", stand)
        sequence = 0
        while time.monotonic() < until:
            asked = time.monotonic()
            item = await broker.next_item.remote(number, incarnation, sequence, 0)
            if not isinstance(item, WorkItem):
                continue
            waits.append(time.monotonic() - asked)
            sequence += 1
            for _ in range(int(np.random.default_rng(number + sequence).integers(2, 5))):
                await asyncio.sleep(1)
                begun = time.monotonic()
                await broker.heartbeat.remote(number, incarnation, 1, 4)
                beats.append(time.monotonic() - begun)
            await broker.post.remote(
                WorkResult(key=item.key, kind=item.kind, trial=item.trial, attempt=item.attempt, lane=number, timing={})
            )
            done += 1

    async def driver() -> None:
        """Keeps one item more than lanes in flight, as the searcher does."""
        flying: set[str] = set()
        number = 0
        while time.monotonic() < until:
            while len(flying) <= count:
                item = WorkItem(key=f"trial:{number}", kind=WorkKind.TRAIN, trial=number)
                await broker.submit.remote(item)
                flying.add(item.key)
                number += 1
            result = await broker.wait_any.remote(list(flying), 1.0)
            if result is not None:
                flying.discard(result.key)
                await broker.acknowledge.remote(result.key)

    async def everybody() -> None:
        stands = [Stand.remote() for _ in range(2)]
        await asyncio.gather(driver(), *(lane(number, stands[number % 2]) for number in range(count)))

    asyncio.run(everybody())
    waits.sort()
    beats.sort()
    print(f"{count} lanes, {seconds} s: {done} items")
    for name, times in (("from asking to the next item", waits), ("a heartbeat's round trip", beats)):
        late = times[int(0.95 * len(times))]
        print(
            f"{name}: median {statistics.median(times) * 1e3:.1f} ms, 95th percentile {late * 1e3:.1f} ms (n = {len(times)})"
        )
    ray.shutdown()


STORE = 400 * 2**20  # bytes of each node's object store
LANES_EACH = 2


def nodes(count: int) -> None:
    """Nodes as processes side by side."""
    import ray
    from ray.cluster_utils import Cluster

    quieten()
    each = {"object_store_memory": STORE, "num_cpus": LANES_EACH}
    cluster = Cluster(initialize_head=True, head_node_args=each)
    for _ in range(count - 1):
        cluster.add_node(**each)
    share(cluster.address)
    ray.shutdown()
    cluster.shutdown()


def hosts(count: int) -> None:
    """A network namespace for each node, with an address behind a bridge, its own /dev/shm and its own /tmp/ray."""
    quieten()  # the nodes inherit it
    nodes: list[subprocess.Popen[bytes]] = []
    names = [f"dshost{number}" for number in range(count)]
    ray_command = Path(sys.executable).with_name("ray")
    command = f"{ray_command} start --block --disable-usage-stats --num-cpus={LANES_EACH} --object-store-memory={STORE}"
    try:
        do("ip link add dsbridge type bridge", "ip link set dsbridge up")
        for number, name in enumerate(names):
            address = f"10.77.0.{number + 1}"
            do(
                f"ip netns add {name}",
                f"ip link add {name} type veth peer name eth0 netns {name}",
                f"ip link set {name} master dsbridge up",
                f"ip -n {name} addr add {address}/24 dev eth0",
                f"ip -n {name} link set eth0 up",
                f"ip -n {name} link set lo up",
            )
            role = f"--head --port=6379 --node-ip-address={address}"
            if number:
                role = f"--address=10.77.0.1:6379 --node-ip-address={address}"
            own = "mount -t tmpfs tmpfs /dev/shm; mkdir -p /tmp/ray; mount -t tmpfs tmpfs /tmp/ray"
            line = ["ip", "netns", "exec", name, "sh", "-c", f"{own}; exec {command} {role}"]
            nodes.append(subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            time.sleep(10 if number == 0 else 3)
        time.sleep(5)
        before = {name: sent_to(name) for name in names}
        inside = ["nsenter", "-t", str(nodes[0].pid), "-n", "-m", sys.executable, __file__, "share", "10.77.0.1:6379"]
        subprocess.run(inside, check=True)
        for name in names:
            print(f"{name}: {(sent_to(name) - before[name]) / 2**20:.0f} MB went over the network to it")
    finally:
        for node in reversed(nodes):
            node.terminate()
            node.wait(60)
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
        subprocess.run(["ip", "link", "del", "dsbridge"], check=False, capture_output=True)


def do(*commands: str) -> None:
    for command in commands:
        subprocess.run(command.split(), check=True)


def sent_to(name: str) -> int:
    """Bytes that left the bridge towards this host."""
    return int(Path(f"/sys/class/net/{name}/statistics/tx_bytes").read_text())


def share(address: str, megabytes_shared: int = 100) -> None:
    """Lanes on several nodes read one transfer set: each node holds it once, however many lanes it has."""
    import ray
    from ray._private.internal_api import node_stats
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    quieten()
    ray.init(address=address, log_to_driver=False)
    shared = ray.put(np.zeros(megabytes_shared * 2**20, np.uint8))

    @ray.remote(num_cpus=1)
    class Lane:
        def read(self, held: list[ray.ObjectRef]) -> float:
            begun = time.perf_counter()
            self.kept = ray.get(held[0])
            return time.perf_counter() - begun

    alive = [node for node in ray.nodes() if node["Alive"]]
    readers = {
        node["NodeID"]: [
            Lane.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote()
            for _ in range(LANES_EACH)
        ]
        for node in alive
    }
    for node in alive:
        times = ray.get([lane.read.remote([shared]) for lane in readers[node["NodeID"]]])
        print(f"node {node['NodeManagerAddress']}: read in {', '.join(f'{each:.3f} s' for each in times)}")
    for node in alive:
        held = node_stats(node["NodeManagerAddress"], node["NodeManagerPort"], include_memory_info=False).store_stats
        print(
            f"node {node['NodeManagerAddress']}: {held.object_store_bytes_used / 2**20:.0f} MB held for {LANES_EACH} lanes"
        )
    ray.shutdown()


def examples(count: int) -> None:
    """Rows of 5 to 25 pieces: made, shared, and batches drawn from them."""
    import ray

    start_ray(num_cpus=1)
    rng = np.random.default_rng(0)
    lengths = rng.integers(5, 26, count)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    tokens = Tokens(rng.integers(5, 30000, offsets[-1]).astype(np.int32), offsets, lengths.astype(np.int32))
    logits = rng.normal(size=(count, 2)).astype(np.float32)
    size = sum(array.nbytes for array in (tokens.ids, tokens.offsets, tokens.second, logits)) / 2**20
    print(f"{count:,} rows: {size:.0f} MB of arrays; this process {megabytes():.0f} MB")
    begun = time.perf_counter()
    reference = ray.put((tokens, logits))
    print(f"into the object store: {time.perf_counter() - begun:.1f} s")

    @ray.remote(num_cpus=1)
    def read(held: list[ray.ObjectRef]) -> dict[str, float]:
        before = private_megabytes()
        shared: Tokens = ray.get(held[0])[0]
        begun = time.perf_counter()
        batches = training_rows(shared.lengths, 64, 0, 0)
        drawn = time.perf_counter()
        for rows in batches[:2000]:
            padded(shared, rows, 0)
        assert len(batches) == num_batches(len(shared), 64)
        return {
            "seconds to draw an epoch": drawn - begun,
            "microseconds a batch": (time.perf_counter() - drawn) / 2000 * 1e6,
            "its own memory grew by, MB": private_megabytes() - before,
        }

    for name, value in ray.get(read.remote([reference])).items():
        print(f"a lane: {name} {value:.1f}")
    ray.shutdown()


def data(count: int) -> None:
    """Written, read, tokenised, taught, two students trained for 200 steps, one chosen and delivered."""
    from memory import Memory, held

    from search import run_study
    from search.study.progress import Silent

    begun = time.perf_counter()
    memory = Memory(lambda command: "lanes" if "RayTrainWorker" in command else "")

    class Told(Silent):
        def say(self, text: str) -> None:
            own = held(os.getpid())
            print(f"{time.perf_counter() - begun:7.1f} s, driver {own['Anonymous']:6,.0f} MB: {text}", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        place, words = Path(folder), [f"w{number}" for number in range(2000)]
        with open(place / "train.tsv", "w", encoding="utf-8") as file:
            file.write("text\tlabel\n")
            rng = np.random.default_rng(0)
            for start in range(0, count, 10_000):
                lengths = rng.integers(5, 26, min(10_000, count - start))
                for drawn in np.split(rng.integers(0, len(words), lengths.sum()), np.cumsum(lengths)[:-1]):
                    file.write(" ".join(words[word] for word in drawn) + f"\t{int(drawn.mean() > len(words) / 2)}\n")
        size = (place / "train.tsv").stat().st_size / 2**20
        spec = parse_study(
            {
                "name": "data",
                "data": {"train": str(place / "train.tsv"), "max_length": 32},
                "teacher": {"model": str(tiny_teacher(place / "teacher", words)), "fine_tune": {"epochs": 0.01}},
                "space": {"depth": 1, "layers": "first", "vocabulary": "used", "temperature": {"float": [1, 8]}},
                "training": {"steps": 200},
                "budget": {"trials": 2},
                "confirm": {"seeds": 1, "without_distillation": "none"},
                "tracking": {"wandb": "none"},
                "cache": str(place / "cache"),
                "output": str(place / "out"),
            },
            "the benchmark",
            place,
        )
        print(f"{time.perf_counter() - begun:7.1f} s: {count:,} rows, {size:,.0f} MB, are written", flush=True)
        memory.start()
        run_study(spec, Told())
    for name, values in memory.most.items():
        print(f"at most, {name}: {', '.join(f'{kind} {value:,.0f} MB' for kind, value in values.items())}")


def tiny_teacher(folder: Path, words: list[str]) -> Path:
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    folder.mkdir()
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n")
    BertTokenizer(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(pieces), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=64,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return folder


def megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def private_megabytes() -> float:
    """Of this process alone: what it shares with the object store is not counted."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


if __name__ == "__main__":
    what, *more = sys.argv[1:]
    if what == "share":  # on a cluster that runs
        share(more[0])
    else:
        work = {
            "trials": (trials, 5000), "lanes": (lanes, 200), "nodes": (nodes, 3), "hosts": (hosts, 3),
            "examples": (examples, 5e6), "data": (data, 5e6),
        }  # fmt: skip
        chosen, default = work[what]
        chosen(int(float(more[0])) if more else int(default))
