/** Longest excerpt of a statement in a message. */
const WORDS_MAX = 80;

/**
 * Enough of a SQL statement to find it in the code, for messages: up to its first literal, numbers left out. What follows a
 * quotation mark may be a row value, however it is escaped, so nothing behind the first one is shown.
 */
export function firstWords(sql: string): string {
  const words = sql.replaceAll(/\s+/g, ' ').trim();
  const literal = words.search(/'|\$\w*\$/);
  const shown = (literal === -1 ? words : `${words.slice(0, literal)}…`).replaceAll(/(?<![\w$"])\d[\d.]*/g, '…');
  return shown.length > WORDS_MAX ? `${shown.slice(0, WORDS_MAX)}…` : shown;
}
