// The server that most tutorials on Server-Sent Events arrive at: one Redis subscriber per process
// for all channels, a map from topic to the responses that want it, one `res.write` per client.
//
//   GET /events?topic=a&topic=b      a stream of both topics
//   PUBLISH events:a <text>          in Redis: an event on topic a
//
// Two things tutorials leave out are here, because without them the comparison would not be one:
// `cluster`, so that it may use as many cores as the others, and an answer that is begun only when
// Redis has confirmed the subscription, so that nothing is lost while a stream opens.
'use strict';

const cluster = require('node:cluster');
const http = require('node:http');
const { createClient } = require('redis');

const CHANNEL_PREFIX = 'events:';
const workers = Number(process.env.WORKERS || 1);

if (cluster.isPrimary) {
  for (let i = 0; i < workers; i += 1) cluster.fork();
  // A worker that dies is an error to be seen, not to be hidden by another one.
  cluster.on('exit', (worker, code) => {
    console.error(`worker ${worker.process.pid} ended with ${code}`);
    process.exit(1);
  });
} else {
  serve().catch((error) => {
    console.error(error);
    process.exit(1);
  });
}

async function serve() {
  const responsesByTopic = new Map();

  const subscriber = createClient({ url: process.env.REDIS_URL });
  subscriber.on('error', (error) => console.error(`redis: ${error.message}`));
  await subscriber.connect();
  await subscriber.pSubscribe(`${CHANNEL_PREFIX}*`, (message, channel) => {
    const responses = responsesByTopic.get(channel.slice(CHANNEL_PREFIX.length));
    if (!responses) return;
    for (const response of responses) response.write(`data: ${message}\n\n`);
  });

  const server = http.createServer((request, response) => {
    const url = new URL(request.url, 'http://localhost');
    if (request.method !== 'GET' || url.pathname !== '/events') {
      response.writeHead(404).end();
      return;
    }
    const topics = url.searchParams.getAll('topic');
    response.writeHead(200, { 'Content-Type': 'text/event-stream', 'Cache-Control': 'no-cache' });
    response.flushHeaders();
    for (const topic of topics) {
      if (!responsesByTopic.has(topic)) responsesByTopic.set(topic, new Set());
      responsesByTopic.get(topic).add(response);
    }
    request.on('close', () => {
      for (const topic of topics) {
        const responses = responsesByTopic.get(topic);
        if (responses && responses.delete(response) && responses.size === 0) responsesByTopic.delete(topic);
      }
    });
  });
  server.listen(Number(process.env.PORT), '127.0.0.1', () => console.log(`${process.pid} listening`));
}
