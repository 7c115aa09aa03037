"""Speed of Monte-Carlo rollouts beside replayed prefixes with Gumbel noise, one JSON object a line.

    python benchmarks/rollout.py [--config=paper|seed|gpu] [--chunk=1]

Counts the tokens that complete the prefixes, B N T (T - 1) / 2 for B sequences of fixed length, and
judges them with an LSTM. The plain way takes a single rollout, because it is slow, and its rate is
compared. `floor` is the time of the products of both networks, and of one exponential for each
logit, at this machine's ceilings, measured in the same run.
"""

import baselines
import jax
import jax.numpy as jnp
import numpy as np
import settings
from absl import app, flags

from seqgan_jax.core import lstm, rollout
from seqgan_jax.programs.start import keep_memory

CHUNK = flags.DEFINE_integer("chunk", 1, "Prefixes that complete together.", lower_bound=1)
ROLLOUTS = flags.DEFINE_integer("rollouts", None, "Instead of the setting's.", lower_bound=1)


def main(argv):
    del argv
    keep_memory()
    setting = settings.chosen()
    rollouts = ROLLOUTS.value or setting.rollouts
    policy, judge = baselines.network(setting, 0), baselines.network(setting, 1)
    shape = setting.batch, setting.length
    tokens = jnp.array(np.random.default_rng(1).integers(0, setting.vocabulary, shape))
    states = baselines.zero_states(setting, setting.batch)

    def score(features, mask):
        return (features * mask[:, :, None]).mean((1, 2))

    def fast(policy, judge, memory, tokens, key):
        def judge_step(states, token):
            states = lstm.stack_step(judge.layers, states, judge.embedding[token])
            return states, states[-1].hidden

        inputs = jnp.pad(tokens[:, :-1], ((0, 0), (1, 0)))
        judged = baselines.read(judge, states, tokens)
        read = baselines.read(policy, states, inputs)
        time_major = lambda states: jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), states)
        return rollout.action_values(
            lambda states, token: baselines.step(policy, memory, states, token),
            judge_step,
            score,
            tokens=tokens,
            mask=jnp.ones(shape),
            policy_states=lambda t: jax.tree.map(lambda x: x.swapaxes(0, 1)[t - 1], read),
            judge_states=time_major(judged),
            features=judged[-1].hidden,
            key=key,
            example_id=jnp.arange(setting.batch),
            num_rollouts=rollouts,
            chunk=CHUNK.value,
        )

    def plain(policy, judge, memory, tokens, key):
        return baselines.replayed_values(policy, judge, memory, tokens, score, key, 1)

    memory = baselines.encode(policy, baselines.source(setting))
    arguments = policy, judge, memory, tokens, jax.random.key(0)
    completed = setting.batch * setting.length * (setting.length - 1) // 2
    per_token = baselines.multiply_adds(setting) + baselines.multiply_adds(setting, output=False)
    baselines.compare(
        "rollout",
        {"fast": (fast, arguments), "plain": (plain, arguments)},
        settings.REPEATS.value or 3,
        unit="tokens",
        counts={"fast": rollouts * completed, "plain": completed},
        operations=2 * per_token,
        exponentials=setting.vocabulary,
        # Weights are read once for every position at the least.
        moved=setting.length * (baselines.size(policy) + baselines.size(judge)),
        config=settings.CONFIG.value,
        rollouts=rollouts,
        chunk=CHUNK.value,
    )


if __name__ == "__main__":
    app.run(main)
