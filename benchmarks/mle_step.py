"""Time of a maximum-likelihood step beside log_softmax and a gather, one JSON object a line.

    python benchmarks/mle_step.py [--config=paper|seed|gpu]

A step is the loss of one batch, its gradient and Adam. `floor` is three times the forward pass's
products, and one exponential for each logit, at this machine's ceilings, measured in the same run.
"""

import baselines
import jax
import jax.numpy as jnp
import numpy as np
import optax
import settings
from absl import app

from seqgan_jax.core import losses
from seqgan_jax.programs.start import keep_memory


def main(argv):
    del argv
    keep_memory()
    setting = settings.chosen()
    params, source = baselines.network(setting, 0), baselines.source(setting)
    shape = setting.batch, setting.length
    target = jnp.array(np.random.default_rng(1).integers(0, setting.vocabulary, shape))
    optimizer = optax.adam(1e-2)

    def step(log_likelihood, params, optimizer_state, source, target):
        def loss(params):
            inputs = jnp.pad(target[:, :-1], ((0, 0), (1, 0)))
            hidden = baselines.read(params, baselines.zero_states(setting, len(target)), inputs)
            hidden = hidden[-1].hidden.reshape(target.size, -1)
            hidden = baselines.output_inputs(params, baselines.encode(params, source), hidden)
            weights = jnp.full(target.size, 1 / target.size)
            flat = target.reshape(-1)
            return -log_likelihood(hidden, params.kernel, params.bias, flat, weights)

        value, gradients = jax.value_and_grad(loss)(params)
        updates, optimizer_state = optimizer.update(gradients, optimizer_state)
        return optax.apply_updates(params, updates), optimizer_state, value

    ways = {
        "fast": lambda *inputs: losses.projected_log_likelihood(*inputs).value,
        "plain": baselines.gathered_log_likelihood,
    }
    arguments = params, optimizer.init(params), source, target
    baselines.compare(
        "mle_step",
        {name: (lambda *a, way=way: step(way, *a), arguments) for name, way in ways.items()},
        settings.REPEATS.value or 20,
        unit="sequences",
        counts=dict.fromkeys(ways, setting.batch),
        operations=6 * setting.length * baselines.multiply_adds(setting),
        exponentials=setting.length * setting.vocabulary,
        # Adam reads parameters, two moments and the gradient, and writes all but the last.
        moved=7 * baselines.size(params),
        config=settings.CONFIG.value,
    )


if __name__ == "__main__":
    app.run(main)
