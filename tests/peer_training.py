"""Steps of dictionary_learning's trainers from weights of ours; runs in an environment that holds only that package.

python -m tests.peer_training jobs.pt results.pt
"""

import sys

import torch

from benchmarks.dictionary_learning_trainers import CENTRED, make_trainer, set_weights, weights_of


def run(job):
    """Weights before and after each step, which features counted as dead in it, and what else was learned."""
    name, batches = job["variant"]["architecture"], job["batches"]
    trainer = make_trainer(
        job["variant"], batches.shape[-1], len(batches), lr=job["lr"], dead_after_tokens=job["dead_after_tokens"]
    )
    set_weights(trainer.ae, job["weights"])
    if name in CENTRED:  # as their step 0 will do again
        module = sys.modules[type(trainer).__module__]
        median = trainer.geometric_median if hasattr(trainer, "geometric_median") else module.geometric_median
        trainer.ae.b_dec.data = median(batches[0])
    steps, dead = [weights_of(trainer.ae)], []
    for step, x in enumerate(batches):
        trainer.update(step, x.clone())
        steps.append(weights_of(trainer.ae))
        # Counted within the step, before its auxiliary loss. Trainers that do not count have none.
        since_fired = getattr(trainer, "num_tokens_since_fired", torch.zeros(job["variant"]["d_sae"]))
        dead.append(since_fired >= job["dead_after_tokens"])
    learned = {key: float(getattr(trainer, key)) for key in ("p", "sparsity_coeff") if hasattr(trainer, key)}
    if name in CENTRED:
        learned["threshold"] = float(trainer.ae.threshold)
    return {"steps": steps, "dead": dead, "watched": learned}


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.save({name: run(job) for name, job in torch.load(sys.argv[1]).items()}, sys.argv[2])
