// Kafka's own Java producer, with its defaults: puts the records of standard input on a
// topic, a key and a value in hexadecimal a line, and tells each one's partition.
// Arguments: bootstrap servers, topic.

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Future;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.serialization.ByteArraySerializer;

public class JavaProducer {
    public static void main(String[] arguments) throws Exception {
        Map<String, Object> servers = Map.of("bootstrap.servers", arguments[0]);
        ByteArraySerializer bytes = new ByteArraySerializer();
        BufferedReader records = new BufferedReader(new InputStreamReader(System.in));
        List<Future<RecordMetadata>> sent = new ArrayList<>();
        try (var producer = new KafkaProducer<>(servers, bytes, bytes)) {
            for (String line = records.readLine(); line != null; line = records.readLine()) {
                String[] hex = line.split(" ");
                byte[] key = HexFormat.of().parseHex(hex[0]);
                byte[] value = HexFormat.of().parseHex(hex[1]);
                sent.add(producer.send(new ProducerRecord<>(arguments[1], key, value)));
            }
        }
        for (Future<RecordMetadata> one : sent) {
            System.out.println(one.get().partition());
        }
    }
}
