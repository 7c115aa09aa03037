"""Speed of exact sampling beside Gumbel noise, one JSON object a line.

    python benchmarks/sampling.py [--config=paper|seed|gpu]

Samples whole sequences with their log-probabilities. `floor` is the time of the products and of one
exponential for each logit at this machine's ceilings, measured in the same run.
"""

import baselines
import jax
import jax.numpy as jnp
import settings
from absl import app

from seqgan_jax.core import sampling
from seqgan_jax.programs.start import keep_memory


def main(argv):
    del argv
    keep_memory()
    setting = settings.chosen()
    params = baselines.network(setting, 0)
    memory = baselines.encode(params, baselines.source(setting))
    states = baselines.zero_states(setting, setting.batch)

    def fast(params, memory, states, key):
        rows = jnp.arange(setting.batch)
        draws = sampling.uniforms(key, rows, rows, setting.length)
        step = lambda states, token: (*baselines.step(params, memory, states, token), None)
        samples = sampling.sample(step, states, draws, bos=0)
        return samples.tokens, samples.log_probs

    def plain(params, memory, states, key):
        return baselines.gumbel_sample(params, memory, states, key, setting.length)

    arguments = params, memory, states, jax.random.key(0)
    baselines.compare(
        "sampling",
        {"fast": (fast, arguments), "plain": (plain, arguments)},
        settings.REPEATS.value or 5,
        unit="tokens",
        counts=dict.fromkeys(("fast", "plain"), setting.batch * setting.length),
        operations=2 * baselines.multiply_adds(setting),
        exponentials=setting.vocabulary,
        moved=setting.length * baselines.size(params),  # the weights, once a step
        config=settings.CONFIG.value,
    )


if __name__ == "__main__":
    app.run(main)
