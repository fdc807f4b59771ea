import { isScalar, isSeq, stringify, visit } from 'yaml';
import { parse } from './checked.ts';
import type { ConfigFile } from './load.ts';

/** One document that differs between two desired states. */
export interface DocumentChange {
  readonly change: 'added' | 'changed' | 'removed';
  readonly kind: string;
  /** Null for kinds of which there is one. */
  readonly name: string | null;
}

/** What would change if `after` took the place of `before`. Comments, order and files do not count, values do. */
export function compareDocuments(before: readonly ConfigFile[], after: readonly ConfigFile[]): DocumentChange[] {
  const old = documentsOf(before);
  const wanted = documentsOf(after);
  const changes: DocumentChange[] = [];
  for (const [id, { kind, name, text }] of wanted) {
    const known = old.get(id);
    if (!known) changes.push({ change: 'added', kind, name });
    else if (known.text !== text) changes.push({ change: 'changed', kind, name });
  }
  for (const [id, { kind, name }] of old) if (!wanted.has(id)) changes.push({ change: 'removed', kind, name });
  return changes;
}

/** A document as its file has it; null = no file holds it. */
export function documentIn(
  files: readonly ConfigFile[],
  kind: string,
  name: string,
): { readonly file: string; readonly text: string } | null {
  for (const { name: file, text } of files)
    for (const { document } of parse(file, text, [])) {
      const value = document.toJS() as { kind?: unknown; name?: unknown } | null;
      if (value?.kind !== kind || value.name !== name) continue;
      const [from, , to] = document.contents?.range ?? [0, 0, 0];
      return { file, text: text.slice(from, to) };
    }
  return null;
}

interface Known {
  readonly kind: string;
  readonly name: string | null;
  readonly text: string;
}

function documentsOf(files: readonly ConfigFile[]): Map<string, Known> {
  const documents = files.flatMap(({ name: file, text }) =>
    parse(file, text, []).map(({ document }): [string, Known] => {
      const value = document.toJS() as { kind: string; name?: string };
      const { kind, name = null } = value;
      return [`${kind} ${name ?? ''}`, { kind, name, text: stringify(value, { sortMapEntries: true }) }];
    }),
  );
  return new Map(documents);
}

/** Keys whose value is a secret, wherever they stand. */
const SECRET_KEY = /^(password|token|key|secret|secretAccessKey|authorization|cookie|.+-(key|token|secret))$/i;
const REFERENCE = /^\$\{(env|file):[^}]*\}$/;
/** A URL with a password that is not a reference. */
const SECRET_URL = /:\/\/[^/@:\s]*:(?!\$\{[^}]*\}@)[^@\s]+@/;

/** Is a secret written out somewhere, instead of named by `${env:…}` or `${file:…}`? */
export function holdsSecret(files: readonly ConfigFile[]): boolean {
  let found = false;
  for (const { name, text } of files) {
    for (const { document } of parse(name, text, [])) {
      const process = (document.toJS() as { kind?: unknown } | null)?.kind === 'Process';
      visit(document, {
        Pair(_, { key, value }) {
          if (!isScalar(key) || !SECRET_KEY.test(String(key.value))) return;
          // Of an object: the name of a column.
          if (process && key.value === 'key') return;
          // Several secrets of a webhook; other lists under such a name are lists of columns.
          const values = isSeq(value) && key.value === 'secret' ? value.items : [value];
          for (const one of values)
            if (isScalar(one) && typeof one.value === 'string' && !REFERENCE.test(one.value)) found = true;
        },
        Scalar(_, node) {
          if (typeof node.value === 'string' && SECRET_URL.test(node.value)) found = true;
        },
      });
    }
  }
  return found;
}
