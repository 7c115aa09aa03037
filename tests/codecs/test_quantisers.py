import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from seqgan_jax.codecs import quantisers
from seqgan_jax.codecs.quantisers import VQVAE, Autoencoder, KMeans
from seqgan_jax.errors import UserError
from seqgan_jax.training.fit import fit

CLUSTERS, SIZE, FEATURES = 6, 12, 5
SMALL = {"steps": 150, "batch_size": 64, "hidden": 16, "code_features": 3, "learning_rate": 1e-2}


@pytest.fixture(scope="module")
def examples():
    """Clusters far apart, [600, 5], and the cluster of each."""
    rng = np.random.default_rng(0)
    centres = 10 * rng.normal(size=(CLUSTERS, FEATURES))
    labels = rng.integers(CLUSTERS, size=600)
    noise = 0.1 * rng.normal(size=(600, FEATURES))
    return (centres[labels] + noise).astype(np.float32), labels


@pytest.fixture(scope="module")
def fitted(examples):
    vectors, _ = examples
    common = {"size": SIZE, "levels": 2, "minimise": fit}
    return {
        "kmeans": quantisers.fit("kmeans", vectors, 0, **common),
        "vqvae": quantisers.fit("vqvae", vectors, 0, **common, **SMALL),
    }


@pytest.mark.parametrize("kind", ["kmeans", "vqvae"])
def test_both_find_the_clusters_and_decode_to_them(fitted, examples, kind):
    vectors, labels = examples
    quantiser = fitted[kind]
    assert (quantiser.size, quantiser.levels, quantiser.features) == (SIZE, 2, FEATURES)
    codes = quantiser.encode(vectors)
    assert codes.shape == (600, 2)
    assert codes.dtype == np.int32
    used = set(codes[:, 0])
    assert CLUSTERS <= len(used) == len(set(zip(codes[:, 0], labels, strict=True)))
    decoded = quantiser.decode(codes)
    assert decoded.dtype == np.float32
    variance = vectors.var(axis=0).mean()
    assert np.mean((decoded - vectors) ** 2) < 0.02 * variance


@pytest.mark.parametrize("kind", ["kmeans", "vqvae"])
def test_a_row_is_coded_alike_in_any_company(fitted, examples, kind):
    vectors, quantiser = examples[0], fitted[kind]
    many = np.tile(vectors, (2, 1))  # more than one piece
    codes = quantiser.encode(many)
    np.testing.assert_array_equal(codes[600:607], quantiser.encode(vectors[:7]))
    np.testing.assert_allclose(
        quantiser.decode(codes)[600:607], quantiser.decode(codes[:7]), rtol=1e-4, atol=1e-4
    )
    assert quantiser.encode(vectors[:0]).shape == (0, 2)
    assert quantiser.decode(codes[:0]).shape == (0, FEATURES)


def test_kmeans_codes_are_those_of_a_slow_search(examples):
    vectors = examples[0][:40]
    scale = quantisers.Scale.fit(vectors)
    books = np.random.default_rng(1).normal(size=(2, 7, FEATURES)).astype(np.float32)
    quantiser = KMeans(books, scale)
    codes = quantiser.encode(vectors)
    for x, row, decoded in zip(vectors, codes, quantiser.decode(codes), strict=True):
        rest, total = (x - scale.mean) / scale.deviation, 0
        for book, code in zip(books, row, strict=True):
            assert code == np.argmin([np.linalg.norm(rest - c) for c in book])
            rest, total = rest - book[code], total + book[code]
        np.testing.assert_allclose(decoded, total * scale.deviation + scale.mean, rtol=1e-4)


def test_a_second_level_codes_what_the_first_leaves():
    vectors = np.random.default_rng(2).normal(size=(2000, 2)).astype(np.float32)
    errors = []
    for levels in (1, 2):
        quantiser = KMeans.fit(vectors, 0, size=8, levels=levels)
        decoded = quantiser.decode(quantiser.encode(vectors))
        errors.append(np.mean((decoded - vectors) ** 2))
    # 8 cells leave about 1/6 of a Gaussian's variance in two dimensions, 64 about 1/40.
    assert errors[0] < 0.25
    assert errors[1] < 0.4 * errors[0]


@pytest.fixture(scope="module")
def network():
    network = Autoencoder(FEATURES, 8, 3)
    batch = np.random.default_rng(3).normal(size=(32, FEATURES)).astype(np.float32)
    params = quantisers.initial_params(network, batch, 0, size=4, levels=2)
    return network, params, batch


def test_gradients_pass_the_quantisation_straight(network):
    network, params, batch = network
    (value, aux), gradient = jax.jit(
        jax.value_and_grad(functools.partial(quantisers.loss, network), has_aux=True)
    )(params, batch, None)

    variables = {"params": params["network"]}
    encode = lambda v: network.apply({"params": v}, batch, method="encode")
    encoded, backward = jax.vjp(encode, params["network"])
    books = quantisers.codebooks(params)
    quantised = sum(books[q][aux["codes"][:, q]] for q in range(2))

    def error(v, s):
        return jnp.mean((batch - network.apply({"params": v}, s, method="decode")) ** 2)

    of_decoder, of_input = jax.grad(error, (0, 1))(variables["params"], quantised)
    commitment = 2 * 0.25 * (encoded - quantised) / encoded.size
    of_encoder = backward(of_input + commitment)[0]
    expected = jax.tree.map(jnp.add, of_decoder, of_encoder)
    expected_value = error(params["network"], quantised) + 0.25 * jnp.mean(
        (encoded - quantised) ** 2
    )
    np.testing.assert_allclose(value, expected_value, rtol=1e-5)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
        gradient["network"],
        expected,
    )
    # Code vectors move by averages alone.
    assert not gradient["sum"].any()
    assert not gradient["count"].any()


def test_code_vectors_are_moving_averages_and_dead_ones_are_replaced(network):
    _, params, _ = network
    rng = np.random.default_rng(4)
    count = np.array([[1.0, 0.5, 0.02, 3.0], [1.0, 1.0, 1.0, 0.09]], np.float32)
    total = rng.normal(size=(2, 4, 3)).astype(np.float32)
    codes = np.stack([rng.choice([0, 1], 20), rng.choice([0, 1, 2], 20)], axis=1)
    given = rng.normal(size=(2, 20, 3)).astype(np.float32)
    moved = quantisers.after(
        {**params, "count": count, "sum": total},
        None,
        {"codes": jnp.array(codes), "given": jnp.array(given)},
        jax.random.key(0),
    )
    for q in range(2):
        for v in range(4):
            rows = given[q][codes[:, q] == v]
            new_count = 0.99 * count[q, v] + 0.01 * len(rows) * 4 / 20
            new_sum = 0.99 * total[q, v] + 0.01 * rows.sum(axis=0) * 4 / 20
            book = quantisers.codebooks(moved)[q, v]
            if new_count < 0.1:
                assert moved["count"][q, v] == 1
                assert np.abs(given[q] - book).sum(axis=1).min() < 1e-6
            else:
                np.testing.assert_allclose(moved["count"][q, v], new_count, rtol=1e-5)
                np.testing.assert_allclose(book, new_sum / new_count, rtol=1e-4)
    assert moved["count"][0, 2] == moved["count"][1, 3] == 1


def test_resets_bring_a_collapsed_codebook_to_life(examples):
    vectors = quantisers.Scale.fit(examples[0]).apply(examples[0])
    network = Autoencoder(FEATURES, 16, 3)
    params = quantisers.initial_params(network, vectors, 0, size=CLUSTERS, levels=1)
    params["sum"] = params["sum"].at[:, 1:].set(1e3)  # nothing is near these
    use = {}
    for name, after in {"with": quantisers.after, "without": None}.items():
        trained = fit(
            functools.partial(quantisers.loss, network),
            params,
            quantisers._batches(vectors, 64, 0),
            steps=350,
            optimizer=optax.adam(1e-2),
            seed=0,
            after=after,
        )
        quantiser = VQVAE(network, trained, quantisers.Scale(np.zeros(FEATURES), 1))
        use[name] = quantisers.code_use(quantiser.encode(vectors), CLUSTERS)["used"]
    assert use["without"] == pytest.approx(1 / CLUSTERS)
    assert use["with"] > 0.75


@pytest.mark.parametrize("kind", ["kmeans", "vqvae"])
def test_equal_seeds_fit_alike(fitted, examples, kind):
    settings = SMALL if kind == "vqvae" else {}
    again = quantisers.fit(kind, examples[0], 0, size=SIZE, levels=2, minimise=fit, **settings)
    np.testing.assert_array_equal(again.encode(examples[0]), fitted[kind].encode(examples[0]))


@pytest.mark.parametrize("kind", ["kmeans", "vqvae"])
def test_a_loaded_quantiser_is_the_saved_one(fitted, examples, tmp_path, kind):
    quantiser = fitted[kind]
    quantiser.save(tmp_path / "new" / "codec")
    loaded = quantisers.load(tmp_path / "new" / "codec")
    assert (loaded.size, loaded.levels, loaded.features) == (SIZE, 2, FEATURES)
    codes = quantiser.encode(examples[0])
    np.testing.assert_array_equal(loaded.encode(examples[0]), codes)
    np.testing.assert_array_equal(loaded.decode(codes), quantiser.decode(codes))


def test_damaged_and_missing_files_are_named(fitted, tmp_path):
    with pytest.raises(UserError, match=r"quantiser\.json: can't read the quantiser"):
        quantisers.load(tmp_path)
    fitted["kmeans"].save(tmp_path)
    arrays = tmp_path / "quantiser.npz"
    data = arrays.read_bytes()
    arrays.write_bytes(data[:-7] + b"0000000")
    with pytest.raises(UserError, match=r"quantiser\.npz: the quantiser is damaged"):
        quantisers.load(tmp_path)
    arrays.unlink()
    with pytest.raises(UserError, match=r"quantiser\.npz: can't read"):
        quantisers.load(tmp_path)
    (tmp_path / "quantiser.json").write_text("{")
    with pytest.raises(UserError, match=r"quantiser\.json: the quantiser is damaged"):
        quantisers.load(tmp_path)


def test_what_cannot_be_fitted_is_named(examples, monkeypatch):
    vectors = examples[0][:10]
    for kind in ("kmeans", "vqvae"):
        with pytest.raises(UserError, match=r"config\.codec\.size: 11 codes.* 10 vectors"):
            quantisers.fit(kind, vectors, 0, size=11, minimise=fit)
    with pytest.raises(UserError, match="no quantiser 'pq'; choose kmeans or vqvae"):
        quantisers.fit("pq", vectors, 0, size=2, minimise=fit)
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(UserError, match=r"pip install 'seqgan_jax\[speech\]'"):
        quantisers.fit("kmeans", vectors, 0, size=2, minimise=fit)


def test_constant_vectors_are_no_trouble():
    vectors = np.full((50, 3), 7.0, np.float32)
    small = {"hidden": 4, "code_features": 2}
    quantiser = VQVAE.fit(
        vectors, 0, size=4, **small, minimise=lambda loss, params, *_, **__: params
    )
    assert np.isfinite(quantiser.decode(quantiser.encode(vectors))).all()


def test_code_use_of_known_frequencies():
    uniform = np.tile(np.arange(8), 5)
    half = np.tile(np.arange(4), 10)
    use = quantisers.code_use(np.stack([uniform, half], axis=1), 8)
    assert use["perplexity"] == pytest.approx((8 + 4) / 2)
    assert use["used"] == 0.75
    assert use["bits"] == pytest.approx(3 + 2)
