import { describe, expect, it } from 'vitest';
import { holdsSecret } from './documents.ts';
import { configOf } from './load.ts';

const SOURCE = 'kind: Source\nname: shop\npostgres: postgres://me@db/shop\n---\n';
const SINK = 'kind: Sink\nname: out\ntype: events\n';
const file = (text: string) => [{ name: 'a.yaml', text }];
const load = (rest: string) => configOf(file(SOURCE + SINK + rest), { env: { SECRET: `whsec_${'A'.repeat(43)}=` } }).sinks[0];

function refusal(rest: string): string {
  try {
    load(rest);
  } catch (error) {
    return (error as Error).message;
  }
  throw new Error('the config was accepted');
}

describe('a Sink of type events', () => {
  it('needs no more than a place to send to', () => {
    expect(load('nats: {}\n')).toMatchObject({
      type: 'events',
      format: 'cloudevents',
      target: { nats: { subject: '{sink}.{source}.{schema}.{table}', stream: 'EVENTS_{sink}_{source}', maxAgeMs: 604_800_000 } },
      tables: ['*.*'],
      snapshot: true,
      transactions: false,
    });
    expect(load('webhook: { url: "https://hooks.example/x", secret: "${env:SECRET}" }\n')).toMatchObject({
      target: {
        webhook: { concurrency: 16, batch: 1, timeoutMs: 15_000, retries: { attempts: 10, firstMs: 1_000, mostMs: 300_000 } },
      },
      onError: 'halt',
    });
  });

  it.each([
    ['', '7:1: "type": expected nats: {…} or webhook: {…}: where events go'],
    ['nats: { subject: "changelog.{table}" }', '8:9: "nats.subject": subjects of Tributary and NATS itself'],
    ['nats: { subject: "a.{tabel}" }', '8:9: "nats.subject": unknown {tabel}'],
    ['nats: { subject: "a.>" }', '8:9: "nats.subject": expected words between dots'],
    ['nats: {}\ntransactions: true', '8:1: "nats.subject": with transactions: true'],
    ['nats: {}\nonError: halt', '9:1: "onError": onError is for webhooks'],
    ['nats: {}\ntombstones: true', '9:1: "tombstones": tombstones are of format: debezium'],
    ['nats: {}\nops: [insert]', '9:7: "ops.0"'],
    ['webhook: { url: "ftp://x", secret: "0123456789012345678901234" }', '8:12: "webhook.url": expected a URL that begins with'],
    ['webhook: { url: "https://x", secret: short }', '8:30: "webhook.secret": expected whsec_ and the base64'],
    [
      'webhook: { url: "https://x", secret: "0123456789012345678901234", headers: { webhook-id: x } }',
      '8:78: "webhook.headers.webhook-id": this header is set by Tributary',
    ],
  ])('is refused where it is wrong: %s', (rest, expected) => {
    expect(refusal(`${rest}\n`)).toContain(`a.yaml:${expected}`);
  });

  it('holds a secret where one is written out: as a secret, in a list of them, in a header', () => {
    const webhook = (rest: string) => holdsSecret(file(`${SINK}webhook: { url: "https://x", ${rest} }\n`));
    expect(webhook('secret: "${env:SECRET}"')).toBe(false);
    expect(webhook('secret: ["${env:SECRET}", "${file:/run/secrets/old}"]')).toBe(false);
    expect(webhook('secret: ["${env:SECRET}", "0123456789012345678901234"]')).toBe(true);
    expect(webhook('secret: "${env:SECRET}", headers: { Authorization: "Bearer x" }')).toBe(true);
    expect(webhook('secret: "${env:SECRET}", headers: { X-Api-Key: "${env:KEY}" }')).toBe(false);
  });
});
