/** An array in PostgreSQL's text form, taken apart. */
export type ArrayItem = string | null | readonly ArrayItem[];

/**
 * Reads `{1,NULL,"a \"b\"",{…}}`: quoted items keep their text, with \ before what is meant literally; an unquoted NULL
 * is null. @returns null for one with bounds of its own (`[2:3]={…}`), which has no form in JSON, and for anything else
 */
export function parseArray(text: string): readonly ArrayItem[] | null {
  if (!text.startsWith('{')) return null;
  const reader = { text, at: 0 };
  const items = readItems(reader);
  return items !== null && reader.at === text.length ? items : null;
}

interface Reader {
  readonly text: string;
  at: number;
}

/** From the `{` on; stands behind the `}` afterwards. */
function readItems(reader: Reader): readonly ArrayItem[] | null {
  const items: ArrayItem[] = [];
  reader.at++;
  if (reader.text[reader.at] === '}') {
    reader.at++;
    return items;
  }
  for (;;) {
    const item = readItem(reader);
    if (item === undefined) return null;
    items.push(item);
    const next = reader.text[reader.at++];
    if (next === '}') return items;
    // Every type separates items by a comma, but box by a semicolon.
    if (next !== ',' && next !== ';') return null;
  }
}

function readItem(reader: Reader): ArrayItem | undefined {
  const { text } = reader;
  if (text[reader.at] === '{') return readItems(reader) ?? undefined;
  if (text[reader.at] === '"') return readQuoted(reader);
  let item = '';
  for (; reader.at < text.length; reader.at++) {
    const character = text[reader.at] as string;
    if (character === ',' || character === '}' || character === ';') return item === 'NULL' ? null : item;
    if (character === '\\') reader.at++;
    item += text[reader.at];
  }
  return undefined;
}

function readQuoted(reader: Reader): string | undefined {
  const { text } = reader;
  let item = '';
  for (reader.at++; reader.at < text.length; reader.at++) {
    const character = text[reader.at];
    if (character === '"') {
      reader.at++;
      return item;
    }
    if (character === '\\') reader.at++;
    item += text[reader.at];
  }
  return undefined;
}
