#!/usr/bin/env python3
"""Proves that the program and the network in PyTorch compute the same: logits, loss and every gradient.

    tools/reference/compare.py CASE.safetensors ...

A case holds the program's weights, a random input, base and target, and what the program made of them in f32 (the test
`reference` writes some). PyTorch computes them anew in f32 and in f64, for its f32 gradients are not beyond doubt
either. Status 1 when something differs.
"""
import argparse
import math
import sys

from st_unet import StUnet, load_weights, ordinal_loss, read_safetensors, read_settings, torch, torch_layout

LOGIT_TOLERANCE = 1e-4  # of the logits' standard deviation
LOSS_TOLERANCE = 1e-5  # of the loss
GRADIENT_TOLERANCE = 1e-3  # of the norm of each parameter's gradient


def run(network, arrays, dtype, batch):
    """Logits, loss and gradients by name, `batch` samples at a time: single ones take another way through PyTorch."""
    network = network.to(dtype)
    network.zero_grad()
    given = [torch.from_numpy(arrays[name]).to(dtype).split(batch) for name in ("input", "base", "row_weights")]
    classes = torch.from_numpy(arrays["classes"]).long().split(batch)
    all_logits, loss = [], 0.0
    for x, base, row_weights, target in zip(*given, classes):
        logits = network(x, base)
        part = ordinal_loss(logits, target, row_weights)
        part.backward()
        all_logits.append(logits.detach())
        loss += part.item()
    return torch.cat(all_logits), loss, {name: p.grad.clone() for name, p in network.named_parameters()}


def scales(exact, linear):
    """What the difference of each gradient is measured by: its own norm. The bias of keys has none under a softmax,
    which takes away what all keys have in common (linear global attention does not); its rounding errors are measured
    by the gradient of its weight."""
    def of(name):
        return name if linear and ".global." in name else name.replace(".k.bias", ".k.weight")
    return {name: exact[of(name)].norm() for name in exact}


def error(difference):
    """The greatest of a tensor of differences; infinite when one is not a number, which max() might pass over."""
    return difference.abs().nan_to_num(math.inf).max().item()


def worst(gradients, exact, linear):
    """The greatest difference relative to its scale, and whose it is."""
    scale = scales(exact, linear)
    return max((error((gradients[name].double() - exact[name]).norm() / scale[name]), name) for name in exact)


def compare(path):
    """Prints one line; true when the program's numbers are PyTorch's."""
    arrays, texts = read_safetensors(path)
    settings = read_settings(texts["configuration"])
    weights = {name[len("weights/"):]: a for name, a in arrays.items() if name.startswith("weights/")}
    network = StUnet(settings, arrays["input"].shape[-1])
    load_weights(network, weights)
    samples = len(arrays["input"])
    runs = [run(network, arrays, torch.float32, batch) for batch in (samples, 1)]
    _, exact_loss, exact = run(network, arrays, torch.float64, samples)

    theirs = torch.from_numpy(arrays["logits"])
    spread = theirs.std().item()
    logit_error = max(error(theirs - logits) for logits, _, _ in runs) / spread
    losses = torch.tensor([float(arrays["loss"])] + [loss for _, loss, _ in runs], dtype=torch.float64)
    loss_error = error(losses / exact_loss - 1)
    program = {name: torch_layout(name, arrays["gradient/" + name], exact[name].shape) for name in exact}
    program_error, where = worst(program, exact, settings.everywhere == "linear")
    torch_error, torch_where = max(worst(gradients, exact, settings.everywhere == "linear") for _, _, gradients in runs)
    good = (logit_error <= LOGIT_TOLERANCE and loss_error <= LOSS_TOLERANCE
            and program_error <= GRADIENT_TOLERANCE and torch_error <= GRADIENT_TOLERANCE)
    print(f"{'equal' if good else 'DIFFERENT'}: {path}: logits within {logit_error:.1e} of their spread ({spread:.2f}), "
          f"loss {exact_loss:.5f} within {loss_error:.1e}; {len(exact)} gradients against f64: the program's within "
          f"{program_error:.1e} ({where}), PyTorch's f32 within {torch_error:.1e} ({torch_where})")
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("cases", nargs="+", metavar="CASE.safetensors")
    # Every case is computed, also after one that differs.
    return 0 if all([compare(path) for path in parser.parse_args().cases]) else 1


if __name__ == "__main__":
    sys.exit(main())
