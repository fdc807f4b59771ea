/** Numbers as people read them: short, with a unit, and "–" for what nobody told. */

const MISSING = '–';

export function count(value: number | null): string {
  if (value === null) return MISSING;
  if (Math.abs(value) < 100_000) return Math.round(value).toLocaleString('en');
  return new Intl.NumberFormat('en', { notation: 'compact', maximumSignificantDigits: 4 }).format(value);
}

export function rate(value: number | null): string {
  if (value === null) return MISSING;
  return value < 10 ? value.toLocaleString('en', { maximumFractionDigits: 1 }) : count(value);
}

export function bytes(value: number | null): string {
  if (value === null) return MISSING;
  let size = value;
  for (const unit of ['B', 'KiB', 'MiB', 'GiB']) {
    if (size < 1024) return `${size < 10 && unit !== 'B' ? size.toFixed(1) : Math.round(size)} ${unit}`;
    size /= 1024;
  }
  return `${size.toFixed(1)} TiB`;
}

export function duration(ms: number | null): string {
  if (ms === null) return MISSING;
  if (ms < 1_000) return `${Math.max(0, Math.round(ms))} ms`;
  if (ms < 60_000) return `${(ms / 1_000).toFixed(1)} s`;
  if (ms < 3_600_000) return `${Math.round(ms / 60_000)} min`;
  if (ms < 172_800_000) return `${(ms / 3_600_000).toFixed(1)} h`;
  return `${Math.round(ms / 86_400_000)} days`;
}

export function orMissing(value: string | null): string {
  return value ?? MISSING;
}

export function percent(share: number): string {
  return `${(share * 100).toFixed(share < 0.1 ? 1 : 0)} %`;
}

/** A time as the server tells it (ISO 8601, UTC), by the clock of whoever reads; with its day where that is not today. */
export function clock(iso: string): string {
  const at = new Date(iso);
  const time = at.toLocaleTimeString('en-GB');
  return at.toDateString() === new Date().toDateString() ? time : `${at.toLocaleDateString('en-CA')} ${time}`;
}

/** `17 orders`, of a type as a definition names it. */
export function many(number: number, noun: string): string {
  const name = words(noun);
  return `${count(number)} ${number === 1 ? name : plural(name)}`;
}

/** A name of a definition as people write it. */
export function words(name: string): string {
  return name.replaceAll('_', ' ');
}

export function plural(noun: string): string {
  if (/[^aeiou]y$/.test(noun)) return `${noun.slice(0, -1)}ies`;
  return /(s|x|z|ch|sh)$/.test(noun) ? `${noun}es` : `${noun}s`;
}

export function capital(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
