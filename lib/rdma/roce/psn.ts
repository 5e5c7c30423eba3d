/** Arithmetic of packet sequence numbers, modulo 2^24 (IBTA volume 1, section 9.7.1). */
import { MAX_24_BITS } from "../address.ts";

/** The PSN `count` packets after `psn`. */
export function psnAfter(psn: number, count: number): number {
  return (psn + count) & MAX_24_BITS;
}

/**
 * How many packets `psn` lies after `base`, from -2^23 to 2^23 - 1: negative PSNs are before it, that
 * is duplicates where `base` is expected.
 */
export function psnDistance(base: number, psn: number): number {
  return ((psn - base) << 8) >> 8;
}
