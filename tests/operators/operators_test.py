"""The operators in Python: against dense PyTorch, their gradients against autograd and central differences, their errors,
torch.compile's view of their shapes, and the example. THRESHER_OPERATORS names another library, THRESHER_OPERATORS_DEVICE
the device (cpu), for tools/gpu_check.sh."""
import os
import subprocess
import sys
import unittest
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = os.environ.get("THRESHER_OPERATORS") or Path(os.environ["THRESHER_BIN"]).parent / "lib/libthresher_operators.so"
DEVICE = os.environ.get("THRESHER_OPERATORS_DEVICE", "cpu")
ON_CUDA = DEVICE.startswith("cuda")
torch.ops.load_library(LIBRARY)
ops = torch.ops.thresher


def case(rows, d, n, seed, integers=False):
    generator = torch.Generator().manual_seed(seed)
    def draw(*shape):
        if integers:
            return torch.randint(-4, 5, shape, generator=generator).float().to(DEVICE)
        return torch.randn(*shape, generator=generator).to(DEVICE)
    return draw(rows, d), draw(n, d), draw(n), draw(n, d), draw(d)


def dense(x, W, b_enc, W_dec, b_dec, k):
    values, indices = torch.topk(x @ W.t() + b_enc, k)
    acts = torch.zeros(x.shape[0], W.shape[0]).scatter(1, indices, values.relu())
    return acts @ W_dec + b_dec


def sparse(x, W, b_enc, W_dec, b_dec, k):
    values, indices = ops.encode_topk(x, W.t(), b_enc, k)
    return ops.sparse_decode(indices, values.relu(), W_dec, b_dec)


class OperatorsTest(unittest.TestCase):
    def test_selects_what_a_stable_sort_of_the_whole_matrix_selects(self):
        for seed, (rows, d, n, k) in enumerate([(1, 1, 1, 1), (7, 13, 31, 5), (64, 33, 200, 200), (130, 64, 513, 32)]):
            x, W, b, _, _ = case(rows, d, n, seed, integers=True)
            z = x @ W.t() + b
            order = torch.sort(z, dim=1, descending=True, stable=True)
            values, indices = ops.encode_topk(x, W.t(), b, k)
            self.assertTrue(torch.equal(values, order.values[:, :k]))
            self.assertTrue(torch.equal(indices, order.indices[:, :k]))

    def test_takes_an_encoder_of_any_layout(self):
        x, W, b, _, _ = case(9, 8, 40, 3)
        one = ops.encode_topk(x, W.t(), b, 4)
        other = ops.encode_topk(x.t().contiguous().t(), W.t().contiguous(), b, 4)
        self.assertTrue(torch.equal(one[0], other[0]) and torch.equal(one[1], other[1]))

    def test_trains_as_dense_autograd_does(self):
        x, *parameters = case(48, 24, 160, 5)
        gradients = []
        for forward in (dense, sparse):
            leaves = [p.clone().requires_grad_() for p in (x, *parameters)]
            (x - forward(*leaves, 6)).square().mean().backward()
            gradients.append([leaf.grad for leaf in leaves])
        for of_dense, of_sparse in zip(*gradients):
            self.assertGreater(of_dense.abs().max().item(), 0)
            torch.testing.assert_close(of_sparse, of_dense)

    def test_takes_operands_in_bfloat16_and_adds_in_float32(self):
        x, W, b, _, _ = case(37, 40, 300, 4, integers=True)
        narrow = [t.to(torch.bfloat16).requires_grad_() for t in (x, W)]
        wide = [t.clone().requires_grad_() for t in (x, W)]
        results = [ops.encode_topk(x, W.t(), b, 8) for x, W in (narrow, wide)]
        self.assertTrue(torch.equal(results[0][0], results[1][0]) and results[0][0].dtype == torch.float32)
        self.assertTrue(torch.equal(results[0][1], results[1][1]))
        for values, _ in results:
            values.sum().backward()
        for of_narrow, of_wide in zip(narrow, wide):
            self.assertEqual(of_narrow.grad.dtype, torch.bfloat16)
            self.assertTrue(torch.equal(of_narrow.grad.float(), of_wide.grad))

    def test_leaves_gradients_out_that_nobody_asked_for(self):
        x, W, b_enc, W_dec, b_dec = case(5, 6, 20, 6)
        W_dec.requires_grad_()
        values, indices = ops.encode_topk(x, W.t(), b_enc, 3)
        self.assertFalse(values.requires_grad)
        ops.sparse_decode(indices, values, W_dec).sum().backward()
        expected = torch.zeros(20, 6, device=DEVICE).index_add(0, indices.reshape(-1), values.reshape(-1, 1).expand(-1, 6).contiguous())
        torch.testing.assert_close(W_dec.grad, expected)

    @unittest.skipIf(ON_CUDA, "of CPU threads")
    def test_gives_the_same_bits_for_any_number_of_threads(self):
        x, *parameters = case(300, 40, 257, 7)
        before = torch.get_num_threads()
        results = []
        try:
            for threads in (1, 2, 3):
                torch.set_num_threads(threads)
                leaves = [p.clone().requires_grad_() for p in parameters]
                recon = sparse(x, *leaves, 9)
                recon.square().sum().backward()
                results.append([recon.detach(), *(leaf.grad for leaf in leaves[:3])])
        finally:
            torch.set_num_threads(before)
        for other in results[1:]:
            for a, b in zip(results[0], other):
                self.assertTrue(torch.equal(a, b))

    def test_refuses_what_it_cannot_do(self):
        x, W, b, W_dec, b_dec = case(4, 5, 10, 8)
        values, indices = ops.encode_topk(x, W.t(), b, 2)
        for message, call in [
            ("x is Double; expected float32 or bfloat16", lambda: ops.encode_topk(x.double(), W.t(), b, 2)),
            ("k is 11; expected 1 to 10", lambda: ops.encode_topk(x, W.t(), b, 11)),
            (r"expected \[rows, d\], \[d, n_latents\], \[n_latents\]", lambda: ops.encode_topk(x, W, b, 2)),
            ("W_enc is BFloat16; expected x's Float", lambda: ops.encode_topk(x, W.bfloat16().t(), b, 2)),
            ("b_dec has 4 values; expected 5", lambda: ops.sparse_decode(indices, values, W_dec, b_dec[:4])),
        ]:
            with self.assertRaisesRegex((RuntimeError, IndexError), message):
                call()

    @unittest.skipIf(ON_CUDA, "the device tells later, by NaN and by an assertion")
    def test_refuses_values_that_it_has_to_look_at(self):
        x, W, b, W_dec, _ = case(4, 5, 10, 8)
        values, indices = ops.encode_topk(x, W.t(), b, 2)
        with self.assertRaisesRegex(RuntimeError, "4 of 40 pre-activations are NaN"):
            ops.encode_topk(x, W.t(), b.index_fill(0, torch.tensor(3), torch.nan), 2)
        with self.assertRaisesRegex(IndexError, "latent 10 is out of range; expected 0 to 9"):
            ops.sparse_decode(indices + 10 - indices, values, W_dec)

    @unittest.skipUnless(ON_CUDA, "on CUDA")
    def test_shows_a_nan_by_all_values_and_uses_the_current_stream(self):
        x, W, b, _, _ = case(4, 5, 10, 8)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            fine, _ = ops.encode_topk(x, W.t(), b, 2)
            bad, _ = ops.encode_topk(x, W.t(), b.index_fill(0, torch.tensor(3, device=DEVICE), torch.nan), 2)
        stream.synchronize()
        self.assertTrue(fine.isfinite().all() and bad.isnan().all())

    def test_tells_its_shapes_without_data(self):
        x, W, b, W_dec, b_dec = (t.to("meta") for t in case(4, 5, 10, 9))
        values, indices = ops.encode_topk(x, W.t(), b, 3)
        self.assertEqual((values.shape, indices.shape, indices.dtype), ((4, 3), (4, 3), torch.int64))
        self.assertEqual(ops.sparse_decode(indices, values, W_dec, b_dec).shape, (4, 5))

    def test_passes_pytorchs_own_checks_of_operators(self):
        x, W, b, W_dec, b_dec = case(4, 5, 10, 10)
        torch.library.opcheck(ops.encode_topk.default, (x, W.t(), b, 3))
        values, indices = ops.encode_topk(x, W.t(), b, 3)
        torch.library.opcheck(ops.sparse_decode.default, (indices, values, W_dec, b_dec))
        leaves = [t.clone().requires_grad_() for t in (values, W_dec, b_dec)]
        torch.library.opcheck(ops.sparse_decode.default, (indices, *leaves))

    def test_the_example_learns_with_both_and_agrees(self):
        script = ROOT / "examples/torch_operators/train_sae.py"
        done = subprocess.run([sys.executable, script, "--library", LIBRARY, "--steps", "20", "--n-latents", "256",
                               "--device", DEVICE],
                              capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        losses = {line.split()[0]: float(line.split()[2]) for line in done.stdout.splitlines() if " loss " in line}
        self.assertEqual(set(losses), {"dense", "thresher"})
        self.assertAlmostEqual(losses["thresher"] / losses["dense"], 1, delta=1e-3)


if __name__ == "__main__":
    unittest.main()
