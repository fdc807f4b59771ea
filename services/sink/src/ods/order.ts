/** A table, and the tables that its rows refer to. */
interface Tied {
  readonly oid: number;
  readonly parents: readonly number[];
}

/**
 * Tables in an order in which rows may be written: one that is referred to before those that refer to it (and so, backwards, the
 * order in which rows may be deleted). Where they refer to one another in a circle no order will do, and it is left as it was.
 */
export function parentsFirst<T>(items: readonly T[], tableOf: (item: T) => Tied): T[] {
  const byOid = new Map(items.map((item) => [tableOf(item).oid, item]));
  const ordered = new Set<T>();
  const entered = new Set<T>();
  const visit = (item: T) => {
    if (entered.has(item)) return;
    entered.add(item);
    for (const parent of tableOf(item).parents) {
      const found = byOid.get(parent);
      if (found !== undefined) visit(found);
    }
    ordered.add(item);
  };
  for (const item of items) visit(item);
  return [...ordered];
}
