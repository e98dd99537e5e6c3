import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.PartitionInfo;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/**
 * Prints what is committed in topics, read with Kafka's own client: the judge of our tests, which
 * shares no code with what it judges.
 *
 * Reads names of topics, one per line, and answers each: a line per record with partition, offset,
 * timestamp in milliseconds, key, value, then name and value of each header. Bytes are hexadecimal
 * after a colon; a lone dash is null. The last line is "end", or "failed" and why. It ends with its
 * input. One process answers many questions, since starting one takes longer than to read a small
 * topic.
 */
class Judge {
    public static void main(String[] args) throws Exception {
        // What the client logs, such as a broker that is away, is no record.
        PrintStream answers = System.out;
        System.setOut(System.err);
        Duration within = Duration.ofMillis(Long.parseLong(args[1]));
        var topics = new BufferedReader(new InputStreamReader(System.in));
        for (String topic; (topic = topics.readLine()) != null; ) {
            String answer;
            try {
                answer = committed(args[0], topic, within) + "end";
            } catch (Exception e) {
                answer = "failed " + e.toString().replace('\n', ' ');
            }
            answers.println(answer);
            answers.flush();
        }
    }

    private static String committed(String brokers, String topic, Duration within) {
        Properties p = new Properties();
        p.put("bootstrap.servers", brokers);
        p.put("isolation.level", "read_committed");
        p.put("enable.auto.commit", "false");
        p.put("auto.offset.reset", "none");
        p.put("default.api.timeout.ms", String.valueOf(within.toMillis()));
        StringBuilder out = new StringBuilder();
        var bytes = new ByteArrayDeserializer();
        try (var consumer = new KafkaConsumer<byte[], byte[]>(p, bytes, bytes)) {
            List<TopicPartition> all = new ArrayList<>();
            for (PartitionInfo i : consumer.partitionsFor(topic)) {
                all.add(new TopicPartition(i.topic(), i.partition()));
            }
            if (all.isEmpty()) {
                throw new IllegalStateException("there is no topic " + topic);
            }
            consumer.assign(all);
            consumer.seekToBeginning(all);
            // Of a reader of committed records, the end is where the first open transaction begins.
            Map<TopicPartition, Long> ends = consumer.endOffsets(all);
            long deadline = System.nanoTime() + within.toNanos();
            for (TopicPartition tp : all) {
                while (consumer.position(tp) < ends.get(tp)) {
                    if (System.nanoTime() > deadline) {
                        throw new IllegalStateException("not at the end of " + tp + " within "
                            + within + ": " + consumer.position(tp) + " of " + ends.get(tp));
                    }
                    for (var r : consumer.poll(Duration.ofMillis(100))) {
                        if (r.offset() >= ends.get(new TopicPartition(r.topic(), r.partition()))) {
                            continue;
                        }
                        out.append(r.partition()).append(' ').append(r.offset()).append(' ');
                        out.append(r.timestamp()).append(' ');
                        out.append(hex(r.key())).append(' ').append(hex(r.value()));
                        for (Header h : r.headers()) {
                            out.append(' ').append(hex(h.key().getBytes()));
                            out.append(' ').append(hex(h.value()));
                        }
                        out.append('\n');
                    }
                }
            }
        }
        return out.toString();
    }

    private static String hex(byte[] bytes) {
        return bytes == null ? "-" : ":" + HexFormat.of().formatHex(bytes);
    }
}
