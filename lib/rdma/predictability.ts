/** What is known of the next number of a device to whoever has seen the ones before it. */
export interface Predictability {
  /** Bits that such a number has. */
  readonly width: number;
  /** Bits of the next one that are left to guess, at most: from 0, where it is known, to `width`. */
  readonly bitsToGuess: number;
  /**
   * The shortest range that holds the step from each number to the next; steps wrap around at
   * 2^width, and those to smaller numbers are negative.
   */
  readonly steps: { readonly from: number; readonly to: number };
}

/**
 * Looks for what ReDMArk (USENIX Security 2021, section 4.1) found in the rkeys and QPNs of devices:
 * numbers that differ in some bits only, and numbers that follow each other by one step, by one of
 * few, or by steps within a small range. It finds no other rule: `bitsToGuess` is an upper bound.
 *
 * @param numbers in the order in which the device gave them, some dozens, each below 2^width
 * @param width at most 32
 */
export function predictability(numbers: readonly number[], width: number): Predictability {
  const modulus = 2 ** width;
  const steps = numbers.slice(1).map((number, index) => wrap(number - numbers[index]!, modulus));
  const range = shortestRange(steps, modulus);
  const choices = Math.min(
    range.to - range.from + 1,
    2 ** varyingBits(numbers),
    2 ** varyingBits(steps),
    fewDifferent(steps),
  );
  return { width, bitsToGuess: Math.ceil(Math.log2(choices)), steps: range };
}

function wrap(number: number, modulus: number): number {
  return (number + modulus) % modulus;
}

/** All around but for the widest gap. */
function shortestRange(steps: readonly number[], modulus: number): Predictability["steps"] {
  const sorted = steps.toSorted((one, other) => one - other);
  let [widest, start, end] = [-1, 0, 0];
  for (const [index, step] of sorted.entries()) {
    const next = sorted[index + 1] ?? sorted[0]! + modulus;
    if (next - step > widest) [widest, start, end] = [next - step, next % modulus, step];
  }
  const from = start < modulus / 2 ? start : start - modulus;
  return { from, to: from + wrap(end - start, modulus) };
}

/** Number of bits that are not the same in all. */
function varyingBits(numbers: readonly number[]): number {
  let varying = 0;
  for (const number of numbers) varying |= number ^ numbers[0]!;
  let count = 0;
  for (let bits = varying >>> 0; bits > 0; bits >>>= 1) count += bits & 1;
  return count;
}

/** How many different steps there are; of drawn numbers each has another, which says nothing. */
function fewDifferent(steps: readonly number[]): number {
  const { size } = new Set(steps);
  return size <= steps.length / 4 ? size : Infinity;
}
