// The partition that Kafka's own Java producer picks for a key: one key a line on
// standard input, in hexadecimal, the partition count as the argument.

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.util.HexFormat;
import org.apache.kafka.clients.producer.internals.BuiltInPartitioner;

public class Murmur2Partition {
    public static void main(String[] arguments) throws Exception {
        int partitions = Integer.parseInt(arguments[0]);
        BufferedReader keys = new BufferedReader(new InputStreamReader(System.in));
        for (String key = keys.readLine(); key != null; key = keys.readLine()) {
            byte[] bytes = HexFormat.of().parseHex(key);
            System.out.println(BuiltInPartitioner.partitionForKey(bytes, partitions));
        }
    }
}
