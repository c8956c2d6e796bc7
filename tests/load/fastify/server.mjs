// Baseline of a hand-written Node receiver: Fastify, HMAC over the raw body, SET NX and XADD over
// one pipelining ioredis connection. PORT, REDIS_URL and SECRET come from the environment.

import { createHmac, timingSafeEqual } from 'node:crypto';
import Fastify from 'fastify';
import { Redis } from 'ioredis';

const { PORT, REDIS_URL, SECRET } = process.env;
const redis = new Redis(REDIS_URL, { enableAutoPipelining: true });
const app = Fastify({ logger: false });

app.removeAllContentTypeParsers();
app.addContentTypeParser('*', { parseAs: 'buffer' }, (_request, body, done) => done(null, body));

function verifySignature(header, body) {
  const pairs = Object.fromEntries(String(header).split(',').map((pair) => pair.split('=', 2)));
  if (!pairs.t || !pairs.v1 || Math.abs(Date.now() / 1000 - Number(pairs.t)) > 300) return false;
  const expected = createHmac('sha256', SECRET).update(`${pairs.t}.`).update(body).digest();
  const given = Buffer.from(pairs.v1, 'hex');
  return given.length === expected.length && timingSafeEqual(given, expected);
}

app.post('/api/v1/webhooks/mux', async (request, reply) => {
  if (!verifySignature(request.headers['mux-signature'], request.body)) {
    return reply.code(401).send({ success: false });
  }
  const event = JSON.parse(request.body);
  const fresh = await redis.set(`webhook:hash:${event.id}`, '1', 'EX', 86400, 'NX');
  if (!fresh) return reply.code(200).send({ event_id: event.id, status: 'duplicate' });
  await redis.xadd('webhooks:incoming:mux', '*', 'event_id', event.id, 'event_type', event.type,
    'received_at', Date.now(), 'attempt', 1, 'body', request.body);
  return reply.code(202).send({ event_id: event.id, status: 'accepted' });
});

await app.listen({ port: Number(PORT), host: '127.0.0.1' });
