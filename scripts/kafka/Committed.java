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
 * Prints what is committed in a topic, read with Kafka's own client: the judge of our tests, which
 * shares no code with what it judges.
 *
 * A line per record: partition, offset, timestamp in milliseconds, key, value, then name and value of
 * each header. Bytes are hexadecimal after a colon; a lone dash is null. The last line is
 * "end": without it something is missing.
 */
class Committed {
    public static void main(String[] args) {
        // What the client logs, such as a broker that is away, is no record.
        PrintStream records = System.out;
        System.setOut(System.err);
        Duration within = Duration.ofMillis(Long.parseLong(args[2]));
        Properties p = new Properties();
        p.put("bootstrap.servers", args[0]);
        p.put("isolation.level", "read_committed");
        p.put("enable.auto.commit", "false");
        p.put("auto.offset.reset", "none");
        p.put("default.api.timeout.ms", args[2]);
        StringBuilder out = new StringBuilder();
        var bytes = new ByteArrayDeserializer();
        try (var consumer = new KafkaConsumer<byte[], byte[]>(p, bytes, bytes)) {
            List<TopicPartition> all = new ArrayList<>();
            for (PartitionInfo i : consumer.partitionsFor(args[1])) {
                all.add(new TopicPartition(i.topic(), i.partition()));
            }
            if (all.isEmpty()) {
                System.err.println("there is no topic " + args[1]);
                System.exit(1);
            }
            consumer.assign(all);
            consumer.seekToBeginning(all);
            // Of a reader of committed records, the end is where the first open transaction begins.
            Map<TopicPartition, Long> ends = consumer.endOffsets(all);
            long deadline = System.nanoTime() + within.toNanos();
            for (TopicPartition tp : all) {
                while (consumer.position(tp) < ends.get(tp)) {
                    if (System.nanoTime() > deadline) {
                        System.err.println("not at the end of " + tp + " within " + within + ": "
                            + consumer.position(tp) + " of " + ends.get(tp));
                        System.exit(1);
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
        records.println(out.append("end"));
    }

    private static String hex(byte[] bytes) {
        return bytes == null ? "-" : ":" + HexFormat.of().formatHex(bytes);
    }
}
