/** A projection of a busy changelog may be split by table; each part is an actor with a position of its own. */
export interface Part {
  /** 1 … `of`. */
  readonly index: number;
  readonly of: number;
}

/** A projection that is not split. */
export const WHOLE: Part = { index: 1, of: 1 };

/** The actor of a part: `<sink>/<source>#<index>`, or the projection's own name when it is not split. */
export function partName(projection: string, { index, of }: Part): string {
  return of === 1 ? projection : `${projection}#${index}`;
}

export function partsOf(count: number): Part[] {
  return Array.from({ length: count }, (_, i) => ({ index: i + 1, of: count }));
}

/** The projection that an actor belongs to. */
export function projectionOf(actor: string): string {
  return actor.replace(/#\d+$/, '');
}
