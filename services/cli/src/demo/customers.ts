import { Session, type ConnectionConfig } from '@tributary/postgres';
import type { Clock } from '@tributary/core';
import { CITIES, PRODUCTS, SCHEMAS, SLOW_WAREHOUSE, WAREHOUSES } from './schema.ts';

export interface ShopDatabases {
  readonly shop: ConnectionConfig;
  readonly payments: ConnectionConfig;
  readonly logistics: ConnectionConfig;
}

export interface LoadOptions {
  readonly databases: ShopDatabases;
  readonly clock: Clock;
  /** Steps of business a second, on average. */
  readonly rate: number;
  readonly random: () => number;
}

/** Where an order is on its way, and when (ms since 1970) its next step is due. */
interface Underway {
  readonly order: bigint;
  readonly items: readonly { readonly product: number; readonly quantity: number }[];
  readonly total: number;
  step: 'pay' | 'pack' | 'ship' | 'scan' | 'deliver' | 'return';
  payment: bigint | null;
  parcel: bigint | null;
  due: number;
}

interface Child {
  readonly id: string;
  readonly order_id: string;
}

/** Orders finished longer ago than the newest this many are removed: the demo runs for ever on a small disk. */
const ORDERS_KEPT = 5_000;
/** Orders that the shop takes for paid, though no payment was captured. */
const UNPAID_SHARE = 0.015;
const UNDERWAY_MAX = 400;
const TICK_MS = 50;

/**
 * A load that behaves like customers: orders are placed, paid, packed, shipped, scanned on the way and delivered; a few are
 * cancelled or returned, some get stuck, a few are shipped though nobody paid, and one warehouse is slow. Prices, addresses and stock change meanwhile. Each database hears only its part.
 */
export class Customers {
  readonly #options: LoadOptions;
  readonly #underway: Underway[] = [];
  #sessions: Record<keyof ShopDatabases, Session> | null = null;
  #people = 0;

  constructor(options: LoadOptions) {
    this.#options = options;
  }

  /** Makes tables and first rows where there are none. */
  async prepare(): Promise<void> {
    for (const name of ['shop', 'payments', 'logistics'] as const) {
      const session = await this.#open(name);
      const { empty } = await session.row<{ empty: boolean }>(
        `SELECT NOT EXISTS (SELECT 1 FROM pg_tables WHERE schemaname = 'public') AS empty`,
      );
      if (empty) await session.run(`BEGIN; SET LOCAL search_path = public; ${SCHEMAS[name]}; COMMIT`);
      if (empty && name === 'shop') await this.#stockShop(session);
      if (empty && name === 'logistics') {
        await session.run(
          `INSERT INTO public.stock (product_id, warehouse, quantity) SELECT p, w, 500 FROM generate_series(1, ${PRODUCTS.length}) p, unnest($1::text[]) w`,
          [WAREHOUSES],
        );
      }
      await session.close();
    }
  }

  /** Lives until `signal` aborts. */
  async run(signal: AbortSignal): Promise<void> {
    const { clock, rate, random } = this.#options;
    const shop = await this.#open('shop');
    const payments = await this.#open('payments');
    const logistics = await this.#open('logistics');
    this.#sessions = { shop, payments, logistics };
    this.#underway.push(...(await this.#left(clock.now())));
    this.#people = (await shop.row<{ n: number }>('SELECT count(*)::int AS n FROM public.customers')).n;
    let owed = 0;
    let sweptAt = clock.now();
    try {
      while (!signal.aborted) {
        const now = clock.now();
        for (owed = Math.min(owed + (rate * TICK_MS) / 1_000, rate); owed >= 1; owed--) await this.#step(now);
        if (now - sweptAt > 60_000) {
          sweptAt = now;
          await this.#sweep();
        }
        await clock.sleep(TICK_MS * (0.5 + random()), signal).catch(() => {});
      }
    } finally {
      for (const session of [shop, payments, logistics]) await session.close();
    }
  }

  #open(name: keyof ShopDatabases): Promise<Session> {
    return Session.open(this.#options.databases[name], { name: 'demo customers' });
  }

  async #stockShop(session: Session): Promise<void> {
    await session.run(
      `INSERT INTO public.products (id, name, category, price, tags) SELECT * FROM unnest($1::int[], $2::text[], $3::text[], $4::numeric[]) p(id, name, category, price),
       LATERAL (SELECT ARRAY[p.category, lower(split_part(p.name, ' ', 1))]) t`,
      [PRODUCTS.map((p) => p.id), PRODUCTS.map((p) => p.name), PRODUCTS.map((p) => p.category), PRODUCTS.map((p) => p.price)],
    );
    await session.run(
      `INSERT INTO public.customers (name, email, city, address)
       SELECT 'Customer ' || n, 'customer' || n || '@example.org', ($1::text[])[1 + n % ${CITIES.length}], 'Street ' || n FROM generate_series(1, 300) n`,
      [CITIES],
    );
  }

  /** Orders that were on their way when the demo was stopped go on. */
  async #left(now: number): Promise<Underway[]> {
    const { shop, payments, logistics } = this.#sessions as Record<keyof ShopDatabases, Session>;
    const orders = await shop.rows<{ id: string; status: string; total: string; items: Underway['items'] }>(
      `SELECT o.id, o.status, o.total, json_agg(json_build_object('product', i.product_id, 'quantity', i.quantity)) AS items
         FROM public.orders o JOIN public.order_items i ON i.order_id = o.id
        WHERE o.status IN ('placed', 'paid', 'packed', 'shipped') GROUP BY o.id ORDER BY o.id DESC LIMIT ${UNDERWAY_MAX}`,
    );
    const ids = [orders.map(({ id }) => id)];
    const paid = await payments.rows<Child>(`SELECT id, order_id FROM public.payments WHERE order_id = ANY ($1)`, ids);
    const packed = await logistics.rows<Child>(`SELECT id, order_id FROM public.parcels WHERE order_id = ANY ($1)`, ids);
    const childOf = (children: readonly Child[]) => {
      const byOrder = new Map(children.map((one) => [one.order_id, BigInt(one.id)]));
      return (order: string) => byOrder.get(order) ?? null;
    };
    const [paymentOf, parcelOf] = [childOf(paid), childOf(packed)];
    return orders.map(({ id, status, total, items }) => {
      const parcel = parcelOf(id);
      const step = status === 'shipped' ? 'deliver' : parcel !== null ? 'ship' : status === 'paid' ? 'pack' : 'pay';
      const due = now + this.#wait(2_000);
      return { order: BigInt(id), items, total: Number(total), step, payment: paymentOf(id), parcel, due };
    });
  }

  async #step(now: number): Promise<void> {
    const { random } = this.#options;
    const dice = random();
    if (dice < 0.02) return this.#changePrice();
    if (dice < 0.04) return this.#moveHouse();
    if (dice < 0.06) return this.#restock();
    const due = this.#underway.findIndex((one) => one.due <= now);
    if (due !== -1 && dice < 0.85) return this.#advance(this.#underway[due] as Underway, now);
    return this.#underway.length < UNDERWAY_MAX ? this.#place(now) : undefined;
  }

  async #place(now: number): Promise<void> {
    const { random } = this.#options;
    const { shop } = this.#sessions as Record<keyof ShopDatabases, Session>;
    const items = Array.from({ length: 1 + Math.floor(random() * 3) }, () => ({
      product: 1 + Math.floor(random() * PRODUCTS.length),
      quantity: 1 + Math.floor(random() * 2),
    }));
    const placed = await shop.transaction('', async () => {
      const { id, total } = await shop.row<{ id: string; total: string }>(
        `INSERT INTO public.orders (customer_id, total, note)
         SELECT $1, (SELECT sum(p.price * i.quantity) FROM unnest($2::int[], $3::int[]) i(product, quantity) JOIN public.products p ON p.id = i.product), $4 RETURNING id, total`,
        [
          1 + Math.floor(random() * this.#people),
          items.map((i) => i.product),
          items.map((i) => i.quantity),
          random() < 0.1 ? 'Please ring twice.' : null,
        ],
      );
      await shop.run(
        `INSERT INTO public.order_items (order_id, line, product_id, quantity, price)
         SELECT $1, i.line, i.product, i.quantity, p.price FROM unnest($2::int[], $3::int[]) WITH ORDINALITY i(product, quantity, line) JOIN public.products p ON p.id = i.product`,
        [id, items.map((i) => i.product), items.map((i) => i.quantity)],
      );
      return { order: BigInt(id), total: Number(total) };
    });
    this.#underway.push({ ...placed, items, step: 'pay', payment: null, parcel: null, due: now + this.#wait(2_000) });
  }

  async #advance(one: Underway, now: number): Promise<void> {
    const { random } = this.#options;
    const { payments, logistics } = this.#sessions as Record<keyof ShopDatabases, Session>;
    const next = (step: Underway['step'], averageMs: number) => {
      one.step = step;
      // One in fifty gets stuck for a long while.
      one.due = now + this.#wait(random() < 0.02 ? averageMs * 30 : averageMs);
    };
    if (one.step === 'pay') {
      if (random() < 0.06) return this.#cancel(one);
      if (random() < UNPAID_SHARE) {
        await this.#setStatus(one, 'paid');
        return next('pack', 4_000);
      }
      const { id } = await payments.row<{ id: string }>(
        `INSERT INTO public.payments (order_id, method, amount, status, captured_at) VALUES ($1, $2, $3, 'captured', now()) RETURNING id`,
        [one.order, ['card', 'transfer', 'wallet'][Math.floor(random() * 3)], one.total],
      );
      one.payment = BigInt(id);
      await this.#setStatus(one, 'paid');
      return next('pack', 4_000);
    }
    if (one.step === 'pack') {
      const warehouse = WAREHOUSES[Math.floor(random() * WAREHOUSES.length)];
      one.parcel = await logistics.transaction('', async () => {
        for (const item of one.items) {
          await logistics.run(
            `UPDATE public.stock SET quantity = quantity - $3, updated_at = now() WHERE product_id = $1 AND warehouse = $2`,
            [item.product, warehouse, item.quantity],
          );
        }
        const { id } = await logistics.row<{ id: string }>(
          `INSERT INTO public.parcels (order_id, warehouse, carrier, status, weight_grams) VALUES ($1, $2, $3, 'packed', $4) RETURNING id`,
          [one.order, warehouse, random() < 0.5 ? 'Swift' : 'Steady', 300 + Math.floor(random() * 4_000)],
        );
        return BigInt(id);
      });
      await this.#setStatus(one, 'packed');
      return next('ship', warehouse === SLOW_WAREHOUSE ? 20_000 : 3_000);
    }
    if (one.step === 'ship') {
      await logistics.run(`UPDATE public.parcels SET status = 'shipped', updated_at = now() WHERE id = $1`, [one.parcel]);
      await this.#setStatus(one, 'shipped');
      return next('scan', 3_000);
    }
    if (one.step === 'scan') {
      await logistics.run(`INSERT INTO public.scans (parcel_id, place) VALUES ($1, $2)`, [
        one.parcel,
        CITIES[Math.floor(random() * CITIES.length)],
      ]);
      return next(random() < 0.5 ? 'scan' : 'deliver', 3_000);
    }
    if (one.step === 'deliver') {
      await logistics.run(`UPDATE public.parcels SET status = 'delivered', updated_at = now() WHERE id = $1`, [one.parcel]);
      await this.#setStatus(one, 'delivered');
      if (random() < 0.12) return next('return', 10_000);
      return this.#forget(one);
    }
    if (one.payment !== null) {
      await payments.run(`INSERT INTO public.refunds (payment_id, amount, reason) VALUES ($1, $2, 'did not fit')`, [
        one.payment,
        one.total,
      ]);
    }
    await this.#setStatus(one, 'returned');
    return this.#forget(one);
  }

  async #cancel(one: Underway): Promise<void> {
    await this.#setStatus(one, 'cancelled');
    this.#forget(one);
  }

  async #setStatus(one: Underway, status: string): Promise<void> {
    await this.#sessions?.shop.run(
      `UPDATE public.orders SET status = $2::public.order_status, updated_at = now() WHERE id = $1`,
      [one.order, status],
    );
  }

  #forget(one: Underway): void {
    this.#underway.splice(this.#underway.indexOf(one), 1);
  }

  /** Exponential, so that some wait long. */
  #wait(averageMs: number): number {
    return -Math.log(1 - this.#options.random()) * averageMs;
  }

  async #changePrice(): Promise<void> {
    const { random } = this.#options;
    await this.#sessions?.shop.run(`UPDATE public.products SET price = round(price * $2, 2), updated_at = now() WHERE id = $1`, [
      1 + Math.floor(random() * PRODUCTS.length),
      0.95 + random() * 0.105,
    ]);
  }

  async #moveHouse(): Promise<void> {
    const { random } = this.#options;
    await this.#sessions?.shop.run(`UPDATE public.customers SET city = $2, address = $3 WHERE id = $1`, [
      1 + Math.floor(random() * this.#people),
      CITIES[Math.floor(random() * CITIES.length)],
      `Avenue ${Math.floor(random() * 1_000)}`,
    ]);
  }

  async #restock(): Promise<void> {
    await this.#sessions?.logistics.run(
      `UPDATE public.stock SET quantity = quantity + 300, updated_at = now() WHERE quantity < 100`,
    );
  }

  /** Old business leaves the operational databases, as it does in life. */
  async #sweep(): Promise<void> {
    const { shop, payments, logistics } = this.#sessions as Record<keyof ShopDatabases, Session>;
    const { oldest } = await shop.row<{ oldest: string | null }>(
      `SELECT (max(id) - ${ORDERS_KEPT})::text AS oldest FROM public.orders`,
    );
    if (oldest === null) return;
    const busy = this.#underway.map((one) => one.order);
    await shop.run(`DELETE FROM public.orders WHERE id < $1 AND id <> ALL ($2)`, [oldest, busy]);
    await payments.run(`DELETE FROM public.payments WHERE order_id < $1 AND order_id <> ALL ($2)`, [oldest, busy]);
    await logistics.run(`DELETE FROM public.parcels WHERE order_id < $1 AND order_id <> ALL ($2)`, [oldest, busy]);
  }
}
