const UNITS = [
  ['d', 86_400_000],
  ['h', 3_600_000],
  ['min', 60_000],
  ['s', 1_000],
] as const;

/** A time span as people say it, with about two digits: `2.5 h`. */
export function durationText(ms: number): string {
  const [unit, size] = UNITS.find(([, one]) => Math.abs(ms) >= one) ?? ['ms', 1];
  return `${(ms / size).toFixed(ms >= 10 * size ? 0 : 1)} ${unit}`;
}

/** Of an activity, so that no name makes a picture wide. */
export function shortened(name: string, max: number): string {
  return name.length <= max ? name : `${name.slice(0, max - 1)}…`;
}
