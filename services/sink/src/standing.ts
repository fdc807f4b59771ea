/** What differs is looked at so often before it is called a difference. */
export const LOOKS = 4;

/** Rows that only one side has, by sign and key (`-key`: the source, `+key`: the projection), with a hash of the row. */
export type Differing = ReadonlyMap<string, string>;

/**
 * What stands as it stood: rows of the projection that differ and have not moved since the earlier look, and rows that it lacked
 * then and still lacks. Under load a busy row differs at every look, because the two sides are read one after the other,
 * and each time with another value; one look that finds a key again says nothing.
 */
export function standing(earlier: Differing, now: Differing): Differing {
  const opposite = (key: string) => `+${key.slice(1)}`;
  return new Map(
    [...now].filter(([key, hash]) => {
      if (key.startsWith('+')) return earlier.get(key) === hash;
      if (now.has(opposite(key))) return earlier.get(opposite(key)) === now.get(opposite(key));
      return earlier.has(key) && !earlier.has(opposite(key));
    }),
  );
}
