import { createCipheriv, createDecipheriv, createHash, randomBytes } from 'node:crypto';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type Config, type ConfigFile, configReading } from '@tributary/config';
import type { DefinedKind } from '@tributary/console';
import { outlastingElection } from './cluster.ts';
import { type Clock, describeError, Fault, type Kv, type KvEntry } from '@tributary/core';
import { environment, type OpsLog } from '@tributary/ops';

const KEY = 'config';
const CIPHER = 'aes-256-gcm';
const REOPEN_MS = 200;
/** How long a worker that starts waits for a broker cluster to elect its leaders, ms; servers that must start too need a while. */
const BEGIN_MS = 60_000;

/** What stands at `config`: the files as applied, readable, or sealed where one of them holds a secret. */
interface Stored {
  /** Milliseconds since 1970. */
  readonly at: number;
  readonly files?: readonly ConfigFile[];
  /** Base64 of nonce, tag and the encrypted JSON of the files. */
  readonly sealed?: string;
  /** Documents that came over HTTP; they hold no secrets. */
  readonly documents?: readonly ApiDocument[];
}

/** A definition that came over HTTP. */
export interface ApiDocument {
  /** Of one that was written before processes could be defined: absent, a Kpi. */
  readonly kind?: DefinedKind;
  readonly name: string;
  readonly text: string;
  /** From 1, one more with every change. */
  readonly version: number;
  /** Milliseconds since 1970. */
  readonly at: number;
}

/** What is wanted of a cluster: files, which are applied together, and documents beside them, which come one by one. */
export interface Desired {
  readonly files: readonly ConfigFile[];
  readonly documents: readonly ApiDocument[];
}

/** Documents as files that are read like others, but filled in with nothing. */
export function filesOf(documents: readonly ApiDocument[]): ConfigFile[] {
  return documents.map((one) => ({ name: `${PATH_OF[kindOf(one)]}/${one.name}`, text: one.text, verbatim: true }));
}

/** Under `/v1/`. */
const PATH_OF = { Kpi: 'kpis', Process: 'processes' } as const;

export function kindOf({ kind = 'Kpi' }: Pick<ApiDocument, 'kind'>): DefinedKind {
  return kind;
}

/** A name belongs to whoever had it first. @throws Fault `config_invalid` that says how to mend it */
export async function assertNotTaken({ files, documents }: Desired): Promise<void> {
  const { documentIn } = await configReading();
  for (const document of documents) {
    const { name } = document;
    const kind = kindOf(document);
    const found = documentIn(files, kind, name);
    if (!found) continue;
    throw new Fault(
      'config_invalid',
      `${found.file}: ${kind} ${name} was defined over HTTP and is kept there: take it out of this file, or DELETE /v1/${PATH_OF[kind]}/${name} first`,
      { kind, name },
    );
  }
}

/**
 * The desired state of a cluster, applied with `tributary apply`. All of it is one key, so a half-applied state never
 * runs. References to secrets are stored as written and filled in by each worker; a state that holds a secret itself
 * is sealed with the key in `TRIBUTARY_KEY`, or else with one that is made in the data folder.
 *
 * Definitions of KPIs and processes that came over HTTP stand in it too, beside the files: `apply` and `up -f` put other files in the place of
 * the files, and leave the documents alone. One that no longer fits the files is told and passed over, and kept.
 */
export class DesiredState {
  readonly #kv: Kv;
  readonly #data: string;

  constructor(kv: Kv, data: string) {
    this.#kv = kv;
    this.#data = data;
  }

  /** @returns null when nothing was ever applied. @throws Fault `config_invalid` when it is sealed with another key */
  async read(): Promise<(Desired & { readonly revision: number }) | null> {
    const entry = await this.#kv.get(KEY);
    if (!entry) return null;
    const stored = entry.value as Stored;
    return { files: await this.#open(stored), documents: stored.documents ?? [], revision: entry.revision };
  }

  /**
   * Puts a state in the place of the one read at `revision` (0 = of none), also while a broker cluster elects a leader.
   * @throws Fault `config_invalid` when somebody else was faster, or a name is taken by a document and a file
   */
  async write(desired: Desired, revision: number, at: number): Promise<void> {
    const { holdsSecret } = await configReading();
    await assertNotTaken(desired);
    const { files, documents } = desired;
    const more = documents.length === 0 ? {} : { documents };
    const stored: Stored = holdsSecret(files) ? { at, sealed: await this.#seal(files), ...more } : { at, files, ...more };
    let asked = 0;
    const written = await outlastingElection(async () => {
      asked++;
      const now = revision === 0 ? await this.#kv.create(KEY, stored) : await this.#kv.update(KEY, stored, revision);
      if (now !== null || asked === 1) return now;
      // Refused at the second try: by somebody else's state, or by this one, whose answer was lost with the leader that wrote it.
      const entry = await this.#kv.get(KEY);
      return entry && JSON.stringify(entry.value) === JSON.stringify(stored) ? entry.revision : null;
    });
    if (written === null) {
      throw new Fault(
        'config_invalid',
        'somebody else applied a state at the same moment: look at "tributary diff", and apply again',
      );
    }
  }

  /**
   * What a worker begins with: the applied state where there is one, else its own files. A broker that cannot answer yet
   * is waited for: the worker may have been started together with it, or while it elects a leader.
   * @returns also the revision to {@link follow} from
   * @throws Fault `broker_unreachable` when it has not answered for a minute
   */
  async begin(files: readonly ConfigFile[], log: OpsLog): Promise<{ readonly config: Config; readonly revision: number }> {
    const { compareDocuments, configOf } = await configReading();
    const own = configOf(files, { env: environment() });
    const entry = await this.#entryWhenAnswered(log);
    const applied = entry && (await this.#configOf(entry.value as Stored, log));
    if (!entry || !applied) return { config: own, revision: entry?.revision ?? 0 };
    const changes = compareDocuments(await this.#open(entry.value as Stored), files);
    const differing = changes.map(({ change, kind, name }) => `${change}: ${kind}${name === null ? '' : ` ${name}`}`);
    if (differing.length > 0) {
      log.warn(
        { differing },
        'the given files differ from the state applied to this cluster, which counts; see "tributary diff" and "tributary apply"',
      );
    }
    return { config: applied, revision: entry.revision };
  }

  async #entryWhenAnswered(log: OpsLog): Promise<KvEntry | null> {
    const end = performance.now() + BEGIN_MS;
    for (;;) {
      try {
        return await this.#kv.get(KEY);
      } catch (error) {
        if (!(error instanceof Fault) || error.kind !== 'broker_unreachable' || performance.now() > end) throw error;
        log.warn({ error: describeError(error) }, 'the broker does not answer yet; waiting for it');
        await new Promise((resolve) => setTimeout(resolve, REOPEN_MS));
      }
    }
  }

  /**
   * Makes `files` the applied files, whatever was before: for the one process of a cluster of its own.
   * @throws Fault `config_invalid`
   */
  async replace(
    files: readonly ConfigFile[],
    at: number,
    log: OpsLog,
  ): Promise<{ readonly config: Config; readonly revision: number }> {
    const { compareDocuments } = await configReading();
    const entry = await this.#kv.get(KEY);
    const before = entry ? await this.#open(entry.value as Stored).catch(() => null) : [];
    const documents = (entry?.value as Stored | undefined)?.documents ?? [];
    await assertNotTaken({ files, documents });
    if (!entry || before === null || compareDocuments(before, files).length > 0)
      await this.write({ files, documents }, entry?.revision ?? 0, at);
    const revision = (await this.#kv.get(KEY))?.revision ?? 0;
    return { config: await this.#fitted({ files, documents }, log), revision };
  }

  /** Calls `changed` with every state applied after `revision`, until `signal` aborts; one that cannot be read is told and passed over. */
  async follow(
    {
      from,
      clock,
      log,
      signal,
    }: { readonly from: number; readonly clock: Clock; readonly log: OpsLog; readonly signal: AbortSignal },
    changed: (config: Config) => void,
  ): Promise<void> {
    let revision = from;
    while (!signal.aborted) {
      try {
        for await (const event of this.#kv.watch(signal, KEY)) {
          if (event.kind !== 'put' || event.revision === revision) continue;
          revision = event.revision;
          const config = await this.#configOf(event.value as Stored, log);
          if (config && !signal.aborted) changed(config);
        }
      } catch (error) {
        if (!signal.aborted) log.warn({ error: describeError(error) }, 'the desired state cannot be watched; trying again');
      }
      await clock.sleep(REOPEN_MS, signal).catch(() => {});
    }
  }

  async #configOf(stored: Stored, log: OpsLog): Promise<Config | null> {
    try {
      return await this.#fitted({ files: await this.#open(stored), documents: stored.documents ?? [] }, log);
    } catch (error) {
      log.error({ error: describeError(error) }, 'the applied state cannot be run here; going on with what runs');
      return null;
    }
  }

  async #fitted({ files, documents }: Desired, log: OpsLog): Promise<Config> {
    const { configWith } = await configReading();
    const { config, unfit } = configWith(files, filesOf(documents), { env: environment() });
    if (unfit.length > 0)
      log.warn(
        { unfit },
        'definitions that came over HTTP do not fit the files: they are kept, and do not run; PUT or DELETE them',
      );
    return config;
  }

  async #seal(files: readonly ConfigFile[]): Promise<string> {
    const nonce = randomBytes(12);
    const cipher = createCipheriv(CIPHER, await this.#key(), nonce);
    const body = Buffer.concat([cipher.update(JSON.stringify(files), 'utf8'), cipher.final()]);
    return Buffer.concat([nonce, cipher.getAuthTag(), body]).toString('base64');
  }

  async #open({ files, sealed }: Stored): Promise<readonly ConfigFile[]> {
    if (sealed === undefined) return files ?? [];
    const bytes = Buffer.from(sealed, 'base64');
    try {
      const decipher = createDecipheriv(CIPHER, await this.#key(), bytes.subarray(0, 12));
      decipher.setAuthTag(bytes.subarray(12, 28));
      const text = Buffer.concat([decipher.update(bytes.subarray(28)), decipher.final()]).toString('utf8');
      return JSON.parse(text) as ConfigFile[];
    } catch (error) {
      throw new Fault(
        'config_invalid',
        'the applied state holds secrets and was sealed with another key. Name secrets by ${env:…} or ${file:…} in it, or give every worker and command the same TRIBUTARY_KEY, or the same --data',
        {},
        { cause: error },
      );
    }
  }

  async #key(): Promise<Buffer> {
    const given = environment()['TRIBUTARY_KEY'];
    return createHash('sha256')
      .update(given ?? (await this.#keyFile()))
      .digest();
  }

  /** Made once, by whoever comes first. */
  async #keyFile(): Promise<string> {
    const file = join(this.#data, 'cluster.key');
    await mkdir(this.#data, { recursive: true });
    try {
      await writeFile(file, `${randomBytes(32).toString('hex')}\n`, { mode: 0o600, flag: 'wx' });
    } catch (error) {
      if ((error as { code?: string }).code !== 'EEXIST') throw error;
    }
    return readFile(file, 'utf8');
  }
}
