import { assert, assertEquals } from "@std/assert";
import * as fc from "fast-check";
import { predictability } from "../../lib/rdma/predictability.ts";

const COUNT = 64;

/** Numbers that begin at `first`, each a step above the one before. */
function walk(first: number, width: number, steps: readonly number[]): number[] {
  const numbers = [first];
  for (const step of steps) numbers.push((numbers.at(-1)! + step) % 2 ** width);
  return numbers;
}

function drawn(width: number): number[] {
  return [...crypto.getRandomValues(new Uint32Array(COUNT))].map((word) => word >>> (32 - width));
}

const anyWidth = fc.constantFrom(24, 32);
/** A number of so many bits that are given by one below 1. */
const scaled = (fraction: number, bits: number) => Math.floor(fraction * 2 ** bits);
const fraction = fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true });
const fractions = fc.array(fraction, { minLength: COUNT - 1, maxLength: COUNT - 1 });

Deno.test("of numbers from a cryptographic generator all bits are left to guess", () => {
  for (const width of [24, 32]) {
    assertEquals(predictability(drawn(width), width).bitsToGuess, width);
  }
});

Deno.test("numbers that follow each other by one step leave nothing to guess, wherever they begin", () => {
  fc.assert(fc.property(anyWidth, fraction, fraction, (width, first, size) => {
    const step = scaled(size, width - 1);
    const numbers = walk(scaled(first, width), width, Array(COUNT - 1).fill(step));
    const expected = { width, bitsToGuess: 0, steps: { from: step, to: step } };
    assertEquals(predictability(numbers, width), expected);
    const { bitsToGuess, steps } = predictability(numbers.toReversed(), width);
    assertEquals([bitsToGuess, steps.from + step, steps.to + step], [0, 0, 0]);
  }));
});

Deno.test("steps in a small range leave no more to guess than its size", () => {
  const bits = fc.integer({ min: 1, max: 16 });
  fc.assert(fc.property(anyWidth, bits, fraction, fractions, (width, bits, first, sizes) => {
    const steps = sizes.map((size) => 0x100 + scaled(size, bits));
    const found = predictability(walk(scaled(first, width), width, steps), width);
    assert(found.bitsToGuess <= bits, `${found.bitsToGuess}`);
    assertEquals(found.steps, { from: Math.min(...steps), to: Math.max(...steps) });
  }));
});

Deno.test("of few different steps only which one is left to guess", () => {
  fc.assert(fc.property(anyWidth, fraction, fractions, (width, first, choices) => {
    const known = [1, 2 ** (width - 2), 2 ** (width - 1), 2 ** width - 5];
    const steps = choices.map((choice) => known[scaled(choice, 2)]!);
    assert(predictability(walk(scaled(first, width), width, steps), width).bitsToGuess <= 2);
  }));
});

Deno.test("bits that never change, or that count, are not left to guess", () => {
  fc.assert(fc.property(fc.nat({ max: 23 }), fraction, (known, value) => {
    const fixed = scaled(value, known);
    const random = drawn(24 - known);
    const below = random.map((number) => number * 2 ** known + fixed);
    const above = random.map((number) => fixed * 2 ** (24 - known) + number);
    const counting = random.map((number, index) => number * 2 ** known + index % 2 ** known);
    for (const numbers of [below, above, counting]) {
      assert(predictability(numbers, 24).bitsToGuess <= 24 - known);
    }
  }));
});
