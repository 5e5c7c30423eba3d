/**
 * The ethtool ioctl (linux/ethtool.h): what an interface's features and counters are. Where C has a
 * flexible array as the last field, it begins where the structure ends.
 */
import { struct } from "./layout.ts";

/** Followed by a u32 for each bit of `sset_mask`: the number of strings. */
export const ethtoolSsetInfo = struct("ethtool_sset_info", 16, {
  "cmd": [0, "u32"],
  "sset_mask": [8, "u64"],
});

/** Followed by `len` strings of ETH_GSTRING_LEN octets. */
export const ethtoolGstrings = struct("ethtool_gstrings", 12, {
  "cmd": [0, "u32"],
  "string_set": [4, "u32"],
  "len": [8, "u32"],
});

/** Followed by `n_stats` u64. */
export const ethtoolStats = struct("ethtool_stats", 8, {
  "cmd": [0, "u32"],
  "n_stats": [4, "u32"],
});

/** Followed by `size` blocks. */
export const ethtoolGfeatures = struct("ethtool_gfeatures", 8, {
  "cmd": [0, "u32"],
  "size": [4, "u32"],
});

/** States of 32 features, a bit each. */
export const ethtoolGetFeaturesBlock = struct("ethtool_get_features_block", 16, {
  "available": [0, "u32"],
  "requested": [4, "u32"],
  "active": [8, "u32"],
  "never_changed": [12, "u32"],
});

/** Constants of the ioctl, by their C names. */
export const ETHTOOL = {
  SIOCETHTOOL: 0x8946,
  ETHTOOL_GSTRINGS: 0x1b,
  ETHTOOL_GSTATS: 0x1d,
  ETHTOOL_GSSET_INFO: 0x37,
  ETHTOOL_GFEATURES: 0x3a,
  ETH_SS_STATS: 1,
  ETH_SS_FEATURES: 4,
  ETH_GSTRING_LEN: 32,
} as const;
